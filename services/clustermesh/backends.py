"""The backends of one service, from what it lists or selects. Pure and deterministic.

A backend has one number for each named target port. A workload that lacks the name of one port serves the
others; one that lacks all of them serves none and is left out. Addresses of a family in which the service has
no address are left out too.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from services.clustermesh.index import WorkloadIndex
from services.clustermesh.model import Backend, Service, address_order, family
from services.clustermesh.workloads import Workload


class Backends(NamedTuple):
    """The backends in the order of their addresses, and how many workloads lack a port that is asked for."""

    backends: tuple[Backend, ...] = ()
    unnamed: int = 0


def backends_of(service: Service, index: WorkloadIndex) -> Backends:
    """What serves a service now."""
    if service.selector is not None:
        return _selected(service, index)
    listed = [one for one in service.addresses or () if family(one.ip) in service.families]
    return Backends(tuple(_with_node(one, index) for one in listed))


def _selected(service: Service, index: WorkloadIndex) -> Backends:
    families = service.families
    named = [port for port in service.ports if port.target_port_name]
    found, unnamed = [], 0
    for workload in index.workloads_of(service):
        if family(workload.ip) not in families:
            continue
        ports = _numbers(service, workload) if named else ()
        unnamed += len(ports) < len(named)
        if ports or len(named) < len(service.ports) or not service.ports:
            found.append(Backend(ip=workload.ip, node_name=index.node_of(workload), ports=ports))
    found.sort(key=lambda one: address_order(one.ip))
    return Backends(tuple(found), unnamed)


def _numbers(service: Service, workload: Workload) -> tuple[tuple[str, int], ...]:
    numbers = (
        (port.name, workload.number_of(port.protocol, port.target_port_name))
        for port in service.ports
        if port.target_port_name
    )
    return tuple(sorted((name, number) for name, number in numbers if number is not None))


def _with_node(backend: Backend, index: WorkloadIndex) -> Backend:
    """A listed address that is a workload's runs on that workload's node, unless its lister knows better."""
    workload = None if backend.node_name else index.workload(backend.ip)
    node = "" if workload is None else index.node_of(workload)
    return msgspec.structs.replace(backend, node_name=node) if node else backend
