"""Merge of everything that says which identity is behind a prefix, by rank, without I/O.

Own endpoints, the own node, the node stream, the identity stream, PodCIDRs of every node and the two /0
prefixes may all speak about one prefix; the strongest rank shows, and removing it shows the next. The merge
never forgets a weaker contribution, so the outcome depends on what was put, never on the order in which it
came.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from axoneme.lib import identities


class Rank(IntEnum):
    """Who speaks about a prefix; the lower number wins."""

    ENDPOINT = 1
    HOST = 2
    NODE = 3
    IDENTITY = 4
    CIDR = 5
    POD_CIDR = 6
    WORLD = 7

    @property
    def title(self) -> str:
        """The word that the node API shows."""
        return self.name.lower().replace("_", "-")


OUTSIDE = frozenset({Rank.CIDR, Rank.WORLD})
"""Ranks that speak about addresses outside the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IpcacheValue:
    """What the kernel holds for a prefix; `tunnel_endpoint` is empty when it is reached directly."""

    identity: int
    tunnel_endpoint: str = ""
    encryption_key: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One statement about a prefix; `source` names the speaker within its rank and decides last."""

    rank: Rank
    value: IpcacheValue
    source: str = ""
    foreign: bool = False  # of another cluster: the local cluster goes first within a rank
    namespace: str = field(default="", compare=False)
    pod_name: str = field(default="", compare=False)

    @property
    def order(self) -> tuple[int, bool, str]:
        """Sort key: the smallest wins."""
        return (self.rank, self.foreign, self.source)


def canonical_prefix(text: str) -> str:
    """`10.0.1.7` and `10.0.1.7/32` read `10.0.1.7/32`; host bits or other text raise ValueError."""
    return str(ipaddress.ip_network(text))


def is_host_prefix(prefix: str) -> bool:
    """True for a /32 of IPv4 or a /128 of IPv6, which live in the exact-address hash."""
    network = ipaddress.ip_network(prefix)
    return network.prefixlen == network.max_prefixlen


class OwnedNetworks:
    """Networks of more than one address that somebody in the cluster has, counted by statement.

    What lies inside is no address outside: a prefix that a policy names there gets no identity of its own,
    or an unknown pod would pass for the world.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._statements: Counter[str] = Counter()
        self._blocks: Counter[tuple[int, int, int]] = Counter()  # version, length, network bits
        self._lengths: Counter[tuple[int, int]] = Counter()  # version, length

    def add(self, prefix: str) -> None:
        """One more statement about a prefix; single addresses don't count."""
        if is_host_prefix(prefix):
            return
        self._statements[prefix] += 1
        if self._statements[prefix] == 1:
            self._change(prefix, 1)

    def discard(self, prefix: str) -> None:
        """One statement less."""
        if prefix not in self._statements:
            return
        self._statements[prefix] -= 1
        if not self._statements[prefix]:
            del self._statements[prefix]
            self._change(prefix, -1)

    def holds(self, prefix: str) -> bool:
        """Whether the prefix lies inside one of them."""
        network = ipaddress.ip_network(prefix)
        version = network.version
        return any(
            (version, length, _bits(network, length)) in self._blocks
            for family, length in self._lengths
            if family == version and length <= network.prefixlen
        )

    def _change(self, prefix: str, count: int) -> None:
        network = ipaddress.ip_network(prefix)
        length = (network.version, network.prefixlen)
        block = (*length, _bits(network, network.prefixlen))
        self._blocks[block] += count
        self._lengths[length] += count
        if not self._blocks[block]:
            del self._blocks[block]
        if not self._lengths[length]:
            del self._lengths[length]
        self.revision += 1


def _bits(network: ipaddress.IPv4Network | ipaddress.IPv6Network, length: int) -> int:
    return int(network.network_address) >> (network.max_prefixlen - length)


class IpcacheMerge:
    """Contributions per prefix, and which prefixes changed their winner since the last `drain`."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, dict[tuple[int, str], Contribution]] = {}
        self._shown: dict[str, IpcacheValue] = {}
        self._dirty: set[str] = set()
        self.owned = OwnedNetworks()
        """Networks that belong to the cluster, whoever speaks about them: PodCIDRs above all."""
        self.on_winner: Callable[[str, Contribution | None], None] | None = None
        """Hears in `drain` who speaks for each prefix about which something was said."""
        self.on_change: Callable[[str, IpcacheValue | None, Contribution | None], None] | None = None
        """Hears in `drain` of each prefix whose value changed: the value before, and who speaks now."""

    def put(self, prefix: str, contribution: Contribution) -> None:
        """Adds or replaces the statement of (rank, source) about a canonical prefix."""
        statements = self._by_prefix.setdefault(prefix, {})
        key = (contribution.rank, contribution.source)
        if key not in statements and contribution.rank not in OUTSIDE:
            self.owned.add(prefix)
        statements[key] = contribution
        self._dirty.add(prefix)

    def remove(self, prefix: str, rank: Rank, source: str = "") -> None:
        """Withdraws a statement; withdrawing what was never said changes nothing."""
        statements = self._by_prefix.get(prefix)
        if statements is None or statements.pop((rank, source), None) is None:
            return
        if rank not in OUTSIDE:
            self.owned.discard(prefix)
        if not statements:
            del self._by_prefix[prefix]
        self._dirty.add(prefix)

    def replace(self, rank: Rank, source: str, statements: Mapping[str, Contribution]) -> None:
        """Makes `statements` everything that (rank, source) says."""
        for prefix in self.prefixes_of(rank, source):
            if prefix not in statements:
                self.remove(prefix, rank, source)
        for prefix, contribution in statements.items():
            self.put(prefix, contribution)

    def prefixes_of(self, rank: Rank, source: str) -> list[str]:
        """Prefixes about which (rank, source) says something."""
        return [prefix for prefix, said in self._by_prefix.items() if (rank, source) in said]

    def winner(self, prefix: str) -> Contribution | None:
        """The statement that shows, if any."""
        statements = self._by_prefix.get(prefix)
        return min(statements.values(), key=lambda contribution: contribution.order) if statements else None

    def winners(self) -> dict[str, Contribution]:
        """Every prefix with the statement that shows."""
        return {prefix: min(said.values(), key=lambda c: c.order) for prefix, said in self._by_prefix.items()}

    def drain(self) -> dict[str, IpcacheValue | None]:
        """Prefixes whose shown value changed since the last call; None where nobody speaks any more."""
        changes: dict[str, IpcacheValue | None] = {}
        for prefix in self._dirty:
            winner = self.winner(prefix)
            value = winner.value if winner else None
            if self.on_winner is not None:
                self.on_winner(prefix, winner)
            before = self._shown.get(prefix)
            if value == before:
                continue
            if self.on_change is not None:
                self.on_change(prefix, before, winner)
            changes[prefix] = value
            if value is None:
                del self._shown[prefix]
            else:
                self._shown[prefix] = value
        self._dirty.clear()
        return changes


def world_contributions() -> dict[str, Contribution]:
    """The two /0 prefixes: what no longer prefix covers is the world of its family."""
    return {
        "0.0.0.0/0": Contribution(rank=Rank.WORLD, value=IpcacheValue(identity=identities.WORLD_IPV4)),
        "::/0": Contribution(rank=Rank.WORLD, value=IpcacheValue(identity=identities.WORLD_IPV6)),
    }


class LongestPrefix:
    """Looks an address up among the winners, for display: flows carry addresses that no endpoint owns."""

    def __init__(self, merge: IpcacheMerge) -> None:
        self._merge = merge

    def find(self, address: str) -> Contribution | None:
        """The winner of the longest prefix around an address."""
        parsed = ipaddress.ip_address(address)
        for length in range(parsed.max_prefixlen, -1, -1):
            network = ipaddress.ip_network((parsed, length), strict=False)
            winner = self._merge.winner(str(network))
            if winner is not None:
                return winner
        return None
