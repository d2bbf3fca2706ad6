"""Rows of the store that are no policies: identities, claims, addresses, nodes, services.

    rows ──> engine (identities, named ports, services, nodes)
         ├─> occupancy (which node has which identity)
         └─> address book (which pod has which address)

What cannot be read is named in the log and left out; what was known under its key before goes away, save an
identity, which keeps its last labels. No I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

from axoneme.lib import log
from axoneme.lib.kvstore.port import Row
from axoneme.lib.labels import InvalidLabels, LabelSet
from services.policy.records import addresses, noderecords, services
from services.policy.records.addressbook import AddressBook
from services.policy.records.malformed import MalformedRecordError
from services.policy.records.occupancy import IDENTITY_PREFIX, SLAVE_PREFIX, Occupancy, identity_number
from services.policy.resolution.engine import PolicyEngine

logger = logging.getLogger(__name__)

PREFIXES: Final = (
    IDENTITY_PREFIX,
    SLAVE_PREFIX,
    addresses.PREFIX,
    noderecords.PREFIX,
    services.PREFIX,
)
_MAX_IDENTITY_KEY: Final = len(IDENTITY_PREFIX) + 20


class Intake:
    """Takes rows in, whatever their kind."""

    def __init__(self, engine: PolicyEngine, occupancy: Occupancy, book: AddressBook) -> None:
        self._engine = engine
        self._occupancy = occupancy
        self._book = book
        self._cluster = engine.settings.cluster_name
        self._keys: set[str] = set()  # of addresses, nodes and services that are known
        self._takers: dict[str, Callable[[Row], None]] = {
            SLAVE_PREFIX: lambda row: self._occupancy.put_slave(row.key, row.value),
            IDENTITY_PREFIX: self._take_identity,
            addresses.PREFIX: self._take_address,
            noderecords.PREFIX: self._take_node,
            services.PREFIX: self._take_service,
        }

    def put(self, row: Row) -> None:
        """A row was written; rows of other prefixes are left alone."""
        for prefix, take in self._takers.items():
            if row.key.startswith(prefix):
                try:
                    take(row)
                except (MalformedRecordError, InvalidLabels, ValueError, RecursionError) as error:
                    extra = {log.KEY: row.key, log.ERROR: log.clip(error)}
                    logger.error("a stored row cannot be used", extra=extra)
                    if prefix != IDENTITY_PREFIX:
                        self.delete(row.key)
                return

    def delete(self, key: str) -> None:
        """A row went away."""
        self._keys.discard(key)
        if key.startswith(SLAVE_PREFIX):
            self._occupancy.remove_slave(key)
        elif key.startswith(IDENTITY_PREFIX):
            self._forget_identity(_identity(key))
        elif key.startswith(addresses.PREFIX):
            self._forget_address(addresses.address_of(key))
        elif key.startswith(noderecords.PREFIX):
            self._forget_node(noderecords.node_name(key, self._cluster))
        elif key.startswith(services.PREFIX):
            name = services.service_name(key)
            if name is not None:
                self._engine.remove_service(*name)

    def start_over(self, names: Collection[str]) -> None:
        """Before a snapshot: forget what it does not name, and all claims."""
        for key in self._keys - set(names):
            self.delete(key)
        for number in self._occupancy.numbers() - set(map(_identity, names)):
            self._forget_identity(number)
        self._occupancy.clear()

    def put_identity(self, number: int, labels: LabelSet) -> None:
        """An identity that is in the store, whoever says so."""
        self._occupancy.add_number(number)
        self._book.put_identity(number, labels)
        self._engine.put_identity(number, labels)

    def _take_identity(self, row: Row) -> None:
        number = _identity(row.key)
        if number is not None:
            labels = LabelSet.from_key(row.value.decode())
            self.put_identity(number, labels)

    def _forget_identity(self, number: int | None) -> None:
        if number is not None:
            self._occupancy.forget_number(number)
            self._book.remove_identity(number)
            self._engine.remove_identity(number)

    def _take_address(self, row: Row) -> None:
        record = addresses.decode_address(row)
        if record is None:
            return
        self._keys.add(row.key)
        before = self._book.put(record)
        if before is not None and before.identity != record.identity:
            self._engine.remove_named_ports(before.identity, before.address)
        self._engine.put_named_ports(record.identity, record.address, record.named_ports)

    def _forget_address(self, address: str | None) -> None:
        record = None if address is None else self._book.remove(address)
        if record is not None:
            self._engine.remove_named_ports(record.identity, record.address)

    def _take_node(self, row: Row) -> None:
        node = noderecords.decode_node(row, self._cluster)
        if node is not None:
            self._keys.add(row.key)
            self._book.put_node(node.name, noderecords.node_addresses(row))
            self._engine.put_node(node)

    def _forget_node(self, name: str | None) -> None:
        if name is not None:
            self._book.remove_node(name)
            self._engine.remove_node(name)

    def _take_service(self, row: Row) -> None:
        service = services.decode_service(row)
        if service is not None:
            self._keys.add(row.key)
            self._engine.put_service(service)


def _identity(key: str) -> int | None:
    """The number of an identity's key; None for any other key, however long its digits are."""
    return identity_number(key) if len(key) < _MAX_IDENTITY_KEY else None
