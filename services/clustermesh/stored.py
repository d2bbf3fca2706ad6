"""The services in the store, and what of addresses and node ports is taken by them.

A stored service that cannot be read is named in log and metric and left out; the last usable version of it
stays in force.
"""

from __future__ import annotations

import logging

from axoneme.lib import log
from axoneme.lib.kvstore.port import Row
from services.clustermesh.index import WorkloadIndex
from services.clustermesh.model import Protocol, Service, ServiceKey
from services.clustermesh.records import MalformedRecordError, decode_service, service_key

logger = logging.getLogger(__name__)


class StoredServices:
    """Services with the revision that they were written at; `index` hears of each."""

    def __init__(self, index: WorkloadIndex) -> None:
        self.index = index
        self.services: dict[ServiceKey, tuple[Service, int]] = {}
        self.cluster_ips: dict[str, ServiceKey] = {}
        self.node_ports: dict[tuple[Protocol, int], ServiceKey] = {}
        self.malformed: dict[ServiceKey, str] = {}

    def start_over(self, index: WorkloadIndex) -> None:
        """The store is read anew, into another index."""
        self.index = index
        for known in (self.services, self.cluster_ips, self.node_ports, self.malformed):
            known.clear()

    def put(self, row: Row) -> None:
        """A row was written; one that cannot be used leaves the last usable version in force."""
        key = service_key(row.key)
        if key is None:
            logger.error("a key holds no service", extra={log.KEY: row.key})
            return
        try:
            service = decode_service(key, row.value)
        except MalformedRecordError as error:
            self.malformed[key] = str(error)
            extra = {log.KEY: row.key, log.ERROR: log.clip(error)}
            logger.error("a stored service cannot be used", extra=extra)
            return
        self.malformed.pop(key, None)
        self._release(key)
        self.services[key] = (service, row.mod_revision)
        self.cluster_ips.update(dict.fromkeys(service.cluster_ips, key))
        self.node_ports.update({(one.protocol, one.node_port): key for one in service.ports if one.node_port})
        self.index.put_service(service)

    def remove(self, store_key: str) -> None:
        """A row was deleted."""
        key = service_key(store_key)
        if key is not None:
            self.malformed.pop(key, None)
            self._release(key)
            self.services.pop(key, None)
            self.index.remove_service(key)

    def _release(self, key: ServiceKey) -> None:
        """What a service occupied so far is free, unless another has it by now."""
        if key not in self.services:
            return
        service, _ = self.services[key]
        for ip in service.cluster_ips:
            if self.cluster_ips.get(ip) == key:
                del self.cluster_ips[ip]
        for port in service.ports:
            if self.node_ports.get((port.protocol, port.node_port)) == key:
                del self.node_ports[port.protocol, port.node_port]
