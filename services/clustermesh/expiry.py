"""Addresses whose lease ran out stay until their node was heard or given up (docs/adr/0012). Pure.

A deletion that somebody asked for carries the identity service's mark in its revision and counts at once. One
without the mark is an expiry: if it pruned backends, an outage of the control plane would empty every service
while all workloads run.
"""

from __future__ import annotations

from typing import Final

import msgspec

from axoneme.lib.kvstore import layout

WITHDRAWN: Final = layout.PROGRESS + "withdrawn"


class _RecordJson(msgspec.Struct):
    leases: tuple[int, ...] = ()
    declared: bool = False
    expired: bool = False


_decoder = msgspec.json.Decoder(_RecordJson)


class Expiry:
    """Leases of addresses, the nodes behind them, and what is held for those nodes."""

    def __init__(self) -> None:
        self._lease_by_ip: dict[str, int] = {}
        self._node_by_lease: dict[int, str] = {}
        self._records: dict[str, _RecordJson] = {}
        self._held: dict[str, str] = {}

    @property
    def held(self) -> int:
        """How many addresses are kept for their node."""
        return len(self._held)

    def put(self, ip: str, lease: int) -> None:
        """An address was written."""
        self._lease_by_ip[ip] = lease
        self._held.pop(ip, None)

    def hold(self, ip: str) -> bool:
        """An address expired: whether it stays for now."""
        node = self._node_by_lease.get(self._lease_by_ip.get(ip, 0), "")
        if self.given_up(node):
            return False
        self._held[ip] = node
        return True

    def given_up(self, node: str) -> bool:
        """Whether a node that is not registered will not be waited for."""
        record = self._records.get(node)
        return record is None or record.expired

    def forget(self, ip: str) -> None:
        """An address is gone for good."""
        self._lease_by_ip.pop(ip, None)
        self._held.pop(ip, None)

    def put_record(self, node: str, value: bytes) -> list[str]:
        """What is known of a node; returns the addresses that need not be kept any more.

        Raises ValueError for a value that cannot be read.
        """
        record = _decoder.decode(value)
        self._records[node] = record
        self._node_by_lease.update(dict.fromkeys(record.leases, node))
        return self._release(node) if record.declared or record.expired else []

    def remove_record(self, node: str) -> list[str]:
        """A node was deleted; returns the addresses that need not be kept any more."""
        record = self._records.pop(node, None)
        for lease in record.leases if record else ():
            self._node_by_lease.pop(lease, None)
        return self._release(node)

    def _release(self, node: str) -> list[str]:
        return [ip for ip, owner in self._held.items() if owner == node]
