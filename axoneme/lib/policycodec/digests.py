"""The digest of SubjectHeader: a sum, so that it follows a change without looking at what stays.

    digest = (SHA-256 of each entry + SHA-256 of the four enforcements) mod 2^256

A group's share is added up once, and from the group that it replaces where parts and fixed peers are the
same: then only the numbers that differ are hashed. A decoded set carries its own sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import Contribution, Enforcement, Part, Peer, SubjectPolicy
from axoneme.lib.policycodec.entries import entry_bytes, group_bytes

_MODULUS: Final = 1 << 256
_Slot: TypeAlias = tuple[tuple[Part, ...], tuple[Peer, ...]]

_sums: WeakKeyDictionary[Group, int] = WeakKeyDictionary()
_latest: WeakValueDictionary[_Slot, Group] = WeakValueDictionary()


class SummedContributions(frozenset[Contribution]):
    """A set of contributions that knows the sum of its entries' hashes."""

    __slots__ = ("entries_sum",)
    entries_sum: int

    @classmethod
    def of(cls, contributions: AbstractSet[Contribution], entries_sum: int) -> SummedContributions:
        """A set with its sum."""
        made = cls(contributions)
        made.entries_sum = entries_sum % _MODULUS
        return made


def wire_digest(policy: SubjectPolicy) -> bytes:
    """The digest of a policy."""
    return digest_of(sum_of(policy.contributions), policy)


def digest_of(entries_sum: int, policy: SubjectPolicy) -> bytes:
    """The digest of a policy whose entries' sum is known."""
    total = entries_sum + _hash(enforcement_bytes(policy))
    return (total % _MODULUS).to_bytes(32, "big")


def enforcement_bytes(policy: SubjectPolicy) -> bytes:
    """The four enforcements, one byte each, 0 where audited policies change nothing."""
    four: tuple[Enforcement | None, ...] = (
        policy.ingress,
        policy.egress,
        policy.audit_ingress,
        policy.audit_egress,
    )
    return bytes(one or 0 for one in four)


def sum_of(contributions: AbstractSet[Contribution]) -> int:
    """The sum over a set of contributions, by what is known of it already."""
    if isinstance(contributions, GroupedContributions):
        return sum(map(_group_sum, contributions.groups))
    if isinstance(contributions, SummedContributions):
        return contributions.entries_sum
    return hash_sum(map(entry_bytes, contributions))


def hash_sum(entries: Iterable[bytes]) -> int:
    """The sum of the hashes of serialised entries."""
    return sum(map(_hash, entries))


def _hash(raw: bytes) -> int:
    return int.from_bytes(hashlib.sha256(raw).digest(), "big")


def _group_sum(group: Group) -> int:
    found = _sums.get(group)
    if found is None:
        found = _sums[group] = _sum_from_neighbour(group) % _MODULUS
    return found


def _sum_from_neighbour(group: Group) -> int:
    slot = (group.parts, group.fixed)
    neighbour = _latest.get(slot)
    _latest[slot] = group
    base = None if neighbour is None else _sums.get(neighbour)
    if neighbour is None or base is None:
        return hash_sum(group_bytes(group, group.numbers, fixed=True))
    added, removed = group.numbers - neighbour.numbers, neighbour.numbers - group.numbers
    if len(added) + len(removed) > len(group.numbers):
        return hash_sum(group_bytes(group, group.numbers, fixed=True))
    gained = hash_sum(group_bytes(group, added, fixed=False))
    return base + gained - hash_sum(group_bytes(group, removed, fixed=False))
