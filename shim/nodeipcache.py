"""The node's ipcache: the merge of all speakers, written through one reconciler, and the labels of
identities.

Owned by the event loop. Speakers put and withdraw statements, then `commit` writes what changed; nothing
that was in the kernel at start goes away before both the ipcache and the node stream were complete once.
Prefixes that policies name are written only outside the networks of the cluster (`OwnedNetworks`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from axoneme.lib import identities
from axoneme.lib.intent import Failure
from axoneme.lib.labels import LabelSet
from shim.ipcache import Contribution, IpcacheMerge, IpcacheValue, LongestPrefix, Rank, world_contributions
from shim.reconciler import Reconciler, Table, WriteFault

IPCACHE_STREAM, NODE_STREAM = "ipcache", "nodes"
FALLBACK_REASON = "MAP_WRITE_FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixEntry:
    """A prefix of the ipcache stream."""

    prefix: str
    identity: int
    tunnel_endpoint: str = ""
    encryption_key: int = 0
    cluster: str = ""
    namespace: str = ""
    pod_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEntry:
    """An identity of the ipcache stream."""

    number: int
    labels: LabelSet


class NodeIpcache:
    """Merge, reconciler and identity labels of one node."""

    def __init__(
        self,
        table: Table[str, IpcacheValue],
        *,
        cluster_name: str,
        clock: Callable[[], float],
        tunnel: bool = False,
    ) -> None:
        self.merge = IpcacheMerge()
        self.reconciler = Reconciler("axoneme_ipcache", table, clock=clock)
        self.labels: dict[int, LabelSet] = {n: labels for n, (_, labels) in identities.RESERVED.items()}
        self.on_labels: Callable[[int, LabelSet | None], None] = _nobody_listens
        """Hears of labels that the identity stream gave a number, or took away."""
        self._lookup = LongestPrefix(self.merge)
        self._cluster_name = cluster_name
        self._tunnel = tunnel
        self._incomplete = {IPCACHE_STREAM, NODE_STREAM}
        self._inherited: list[str] = []
        self._prefixes: dict[str, int] = {}  # named by policies
        self._placed: dict[str, int] = {}  # those of them that lie outside the cluster
        self._owned_revision = 0
        self._unconfirmed: set[str] = set()
        self.merge.replace(Rank.WORLD, "", world_contributions())

    @property
    def complete(self) -> bool:
        """Whether everything that speaks was heard in full once since the start."""
        return not self._incomplete

    def put_stream_entry(self, entry: PrefixEntry) -> None:
        """A statement of the identity service; the node that has the address matters only to a tunnel."""
        value = IpcacheValue(
            identity=entry.identity,
            tunnel_endpoint=entry.tunnel_endpoint if self._tunnel else "",
            encryption_key=entry.encryption_key,
        )
        self.merge.put(
            entry.prefix,
            Contribution(
                rank=Rank.IDENTITY,
                value=value,
                foreign=entry.cluster not in ("", self._cluster_name),
                namespace=entry.namespace,
                pod_name=entry.pod_name,
            ),
        )

    def put_labels(self, number: int, labels: LabelSet) -> None:
        """Labels of an identity."""
        self.labels[number] = labels
        self.on_labels(number, labels)

    def drop_labels(self, number: int) -> None:
        """An identity is gone."""
        self.labels.pop(number, None)
        self.on_labels(number, None)

    def put_addresses(self, rank: Rank, source: str, identity: int, ips: Iterable[str]) -> None:
        """Makes `ips` everything that (rank, source) says, all with one identity."""
        statements = {}
        for ip in ips:
            contribution = Contribution(rank=rank, source=source, value=IpcacheValue(identity=identity))
            statements[host_prefix(ip)] = contribution
        self.merge.replace(rank, source, statements)

    def load(self) -> None:
        """Reads what the kernel holds; its PodCIDRs count until the node stream was complete."""
        self.reconciler.load()
        self._inherited = [
            prefix
            for prefix, value in self.reconciler.actual.items()
            if value.identity == identities.UNMANAGED
        ]
        for prefix in self._inherited:
            self.merge.owned.add(prefix)

    def publish(self, numbers: Mapping[str, int]) -> frozenset[str]:
        """Makes these all prefixes that policies name; returns those that came into the kernel just now."""
        if numbers != self._prefixes:
            self._prefixes = dict(numbers)
            self._place_prefixes()
        self.commit()
        confirmed = {prefix for prefix in self._unconfirmed if self.holds(prefix, self._placed[prefix])}
        self._unconfirmed -= confirmed
        return frozenset(confirmed)

    def holds(self, prefix: str, number: int) -> bool:
        """Whether the kernel has this number for a prefix."""
        value = self.reconciler.actual.get(prefix)
        return value is not None and value.identity == number

    def prefix_faults(self) -> dict[str, WriteFault]:
        """Prefixes of policies that the kernel did not take."""
        faults = self.reconciler.faults()
        return {prefix: fault for prefix, fault in faults.items() if prefix in self._placed}

    def _place_prefixes(self) -> None:
        owned = self.merge.owned
        placed = {prefix: number for prefix, number in self._prefixes.items() if not owned.holds(prefix)}
        for prefix in [prefix for prefix in self._placed if prefix not in placed]:
            self.merge.remove(prefix, Rank.CIDR)
            self._unconfirmed.discard(prefix)
        for prefix, number in placed.items():
            if self._placed.get(prefix) != number:
                value = IpcacheValue(identity=number)
                self.merge.put(prefix, Contribution(rank=Rank.CIDR, value=value))
                self._unconfirmed.add(prefix)
        self._placed, self._owned_revision = placed, owned.revision

    def commit(self) -> Mapping[str, WriteFault]:
        """Writes what changed since the last call and returns every prefix that is not in the kernel."""
        if self._owned_revision != self.merge.owned.revision:
            self._place_prefixes()
        changes = self.merge.drain()
        self.reconciler.put({prefix: value for prefix, value in changes.items() if value is not None})
        self.reconciler.discard(prefix for prefix, value in changes.items() if value is None)
        self.reconciler.flush()
        return self.reconciler.faults()

    def heard(self, stream: str) -> None:
        """A stream was complete; with the last one, what nobody named goes away."""
        if stream not in self._incomplete:
            return
        self._incomplete.discard(stream)
        if stream == NODE_STREAM:
            for prefix in self._inherited:
                self.merge.owned.discard(prefix)
            self._inherited = []
        if not self._incomplete:
            self.reconciler.prune()

    def contribution_of(self, address: str) -> Contribution | None:
        """The winning statement about an address."""
        return self._lookup.find(address)


class IpcacheSink:
    """Takes the ipcache stream."""

    def __init__(self, ipcache: NodeIpcache) -> None:
        self._ipcache = ipcache

    async def apply(
        self, upserts: Mapping[str, PrefixEntry | IdentityEntry], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """Labels first, then prefixes, removals in reverse; returns prefixes not in the kernel."""
        for entry in upserts.values():
            if isinstance(entry, IdentityEntry):
                self._ipcache.put_labels(entry.number, entry.labels)
        for entry in upserts.values():
            if isinstance(entry, PrefixEntry):
                self._ipcache.put_stream_entry(entry)
        for key in removals:
            kind, _, name = key.partition(":")
            if kind == "prefix":
                self._ipcache.merge.remove(name, Rank.IDENTITY)
            elif not identities.is_reserved(int(name)):
                self._ipcache.drop_labels(int(name))
        if complete:
            self._ipcache.commit()
            self._ipcache.heard(IPCACHE_STREAM)
        self._ipcache.commit()
        return self.failures()

    def failures(self) -> dict[str, Failure]:
        """Prefixes of this stream that are not in the kernel."""
        merge, found = self._ipcache.merge, {}
        for prefix, fault in self._ipcache.reconciler.faults().items():
            winner = merge.winner(prefix)
            if winner is not None and winner.rank is Rank.IDENTITY:
                found[f"prefix:{prefix}"] = failure_of(fault)
        return found


def _nobody_listens(_: int, __: LabelSet | None) -> None:
    pass


def failure_of(fault: WriteFault) -> Failure:
    """A write fault in the vocabulary of the streams."""
    if fault.full:
        return Failure("RESOURCE_EXHAUSTED", "MAP_FULL", fault.message)
    return Failure("UNAVAILABLE", FALLBACK_REASON, fault.message)


def host_prefix(ip: str) -> str:
    """`10.0.1.7` → `10.0.1.7/32`."""
    return f"{ip}/128" if ":" in ip else f"{ip}/32"
