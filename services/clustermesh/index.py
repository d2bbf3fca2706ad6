"""Which workloads a service selects, kept up to date one change at a time. Pure.

    identity ─labels─► candidates by one label of each selector ─► services that select it
    address ──number─► the services of its identity

A service is filed under one label of its selector, so an identity meets only services that ask for one of its
labels, and a change of an address touches the services of its identity alone. `drain` gives what has to be
worked out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from axoneme.lib.labels import NAMESPACE_KEY
from services.clustermesh.model import Service, ServiceKey
from services.clustermesh.workloads import Workload

K = TypeVar("K")
V = TypeVar("V")
Pair = tuple[str, str, str]
"""Namespace, label key and value."""


class WorkloadIndex:
    """Services, identities, addresses and nodes, and who selects whom."""

    def __init__(self) -> None:
        self._services: dict[ServiceKey, Service] = {}
        self._labels: dict[int, Mapping[str, str]] = {}
        self._workloads: dict[str, Workload] = {}
        self._hosts: dict[str, frozenset[str]] = {}
        self._services_by_pair: dict[Pair, set[ServiceKey]] = {}
        self._numbers_by_pair: dict[Pair, set[int]] = {}
        self._services_by_number: dict[int, set[ServiceKey]] = {}
        self._numbers_by_service: dict[ServiceKey, set[int]] = {}
        self._services_by_address: dict[str, set[ServiceKey]] = {}
        self._ips_by_number: dict[int, set[str]] = {}
        self._ips_by_host: dict[str, set[str]] = {}
        self._nodes_by_host: dict[str, set[str]] = {}
        self._dirty: set[ServiceKey] = set()

    # --- answers

    def workloads_of(self, service: Service) -> Iterator[Workload]:
        """What the selector of a service selects, in no order; the service may be one that is not here."""
        if self._services.get(service.key) == service:
            numbers = self._numbers_by_service.get(service.key, set())
        else:
            numbers = self._numbers_of(service)
        for number in numbers:
            for ip in self._ips_by_number.get(number, ()):
                yield self._workloads[ip]

    def workload(self, ip: str) -> Workload | None:
        """The workload of an address."""
        return self._workloads.get(ip)

    def node_of(self, workload: Workload) -> str:
        """The name of a workload's node; empty when the registry has none, or two, of that address."""
        names = self._nodes_by_host.get(workload.host_ip, set())
        return next(iter(names)) if len(names) == 1 else ""

    def drain(self) -> set[ServiceKey]:
        """Services whose backends may have changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    # --- services

    def put_service(self, service: Service) -> None:
        """A service is there or changed."""
        before = self._services.get(service.key)
        if before is not None:
            self.remove_service(service.key)
        self._services[service.key] = service
        self._dirty.add(service.key)
        for backend in service.addresses or ():
            self._services_by_address.setdefault(backend.ip, set()).add(service.key)
        pairs = _pairs(service)
        if not pairs:
            return
        self._services_by_pair.setdefault(pairs[0], set()).add(service.key)
        for number in self._numbers_of(service):
            self._join(service.key, number)

    def remove_service(self, key: ServiceKey) -> None:
        """A service went away."""
        service = self._services.pop(key, None)
        if service is None:
            return
        self._dirty.add(key)
        for backend in service.addresses or ():
            _discard(self._services_by_address, backend.ip, key)
        pairs = _pairs(service)
        if pairs:
            _discard(self._services_by_pair, pairs[0], key)
        for number in self._numbers_by_service.pop(key, set()):
            _discard(self._services_by_number, number, key)

    # --- identities

    def put_identity(self, number: int, labels: Mapping[str, str]) -> None:
        """An identity with its labels of source k8s."""
        if self._labels.get(number) == labels:
            return
        self.remove_identity(number)
        self._labels[number] = labels
        for pair in _identity_pairs(labels):
            self._numbers_by_pair.setdefault(pair, set()).add(number)
            for key in self._services_by_pair.get(pair, ()):
                if selects(self._services[key], labels):
                    self._join(key, number)
        self._touch_number(number)

    def remove_identity(self, number: int) -> None:
        """An identity went away."""
        labels = self._labels.pop(number, None)
        if labels is None:
            return
        self._touch_number(number)
        for pair in _identity_pairs(labels):
            _discard(self._numbers_by_pair, pair, number)
        for key in self._services_by_number.pop(number, set()):
            _discard(self._numbers_by_service, key, number)

    # --- addresses and nodes

    def put_workload(self, workload: Workload) -> None:
        """An address with its identity."""
        if self._workloads.get(workload.ip) == workload:
            return
        self.remove_workload(workload.ip)
        self._workloads[workload.ip] = workload
        self._ips_by_number.setdefault(workload.identity, set()).add(workload.ip)
        self._ips_by_host.setdefault(workload.host_ip, set()).add(workload.ip)
        self._touch(workload)

    def remove_workload(self, ip: str) -> None:
        """An address went away."""
        workload = self._workloads.pop(ip, None)
        if workload is not None:
            _discard(self._ips_by_number, workload.identity, ip)
            _discard(self._ips_by_host, workload.host_ip, ip)
            self._touch(workload)

    def put_node(self, name: str, addresses: frozenset[str]) -> None:
        """A node with its addresses."""
        before = self._hosts.get(name, frozenset())
        self._hosts[name] = addresses
        for host in before - addresses:
            _discard(self._nodes_by_host, host, name)
            self._touch_host(host)
        for host in addresses - before:
            self._nodes_by_host.setdefault(host, set()).add(name)
            self._touch_host(host)

    def remove_node(self, name: str) -> None:
        """A node went away."""
        for host in self._hosts.pop(name, frozenset()):
            _discard(self._nodes_by_host, host, name)
            self._touch_host(host)

    def _join(self, key: ServiceKey, number: int) -> None:
        self._numbers_by_service.setdefault(key, set()).add(number)
        self._services_by_number.setdefault(number, set()).add(key)

    def _touch(self, workload: Workload) -> None:
        self._dirty |= self._services_by_number.get(workload.identity, set())
        self._dirty |= self._services_by_address.get(workload.ip, set())

    def _touch_number(self, number: int) -> None:
        """The services of an identity change with it only when it has addresses."""
        if self._ips_by_number.get(number):
            self._dirty |= self._services_by_number.get(number, set())

    def _touch_host(self, host: str) -> None:
        for ip in self._ips_by_host.get(host, ()):
            self._touch(self._workloads[ip])

    def _numbers_of(self, service: Service) -> set[int]:
        """The identities that a service selects, from those that have its rarest label."""
        candidates = [self._numbers_by_pair.get(pair, set()) for pair in _pairs(service)]
        fewest = min(candidates, key=len, default=set())
        return {number for number in fewest if selects(service, self._labels[number])}


def selects(service: Service, labels: Mapping[str, str]) -> bool:
    """Whether a service selects workloads with these labels (source k8s)."""
    if not service.selector or labels.get(NAMESPACE_KEY) != service.key.namespace:
        return False
    return all(labels.get(key) == value for key, value in service.selector)


def _pairs(service: Service) -> list[Pair]:
    return [(service.key.namespace, key, value) for key, value in service.selector or ()]


def _identity_pairs(labels: Mapping[str, str]) -> Iterable[Pair]:
    namespace = labels.get(NAMESPACE_KEY)
    return [] if namespace is None else [(namespace, key, value) for key, value in labels.items()]


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]
