"""Prefixes that policies name, from the first policy that names one to its number in the ipcache and back.

    policies ─► wanted ─► numbers (on disk) ─► [maps know them] ─► ipcache ─► policies may be switched to
                                                                      └► withdrawn ─► [maps forget] ─► free

A map that does not know a number would judge its addresses as nobody's, so a prefix goes into the ipcache
only when every map of the node knows its number; a policy waits until each of its prefixes is there, and
leaves the last one in force if that does not come about. Numbers are on disk before any map has them: after
a restart a number in the kernel must not mean something else. Nothing here writes policy maps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from axoneme.lib import log
from axoneme.lib.intent import Failure
from axoneme.lib.policy.model import CidrDefinition, SubjectPolicy
from shim.localidentities import LocalIdentities, has_own_number
from shim.reconciler import WriteFault

logger = logging.getLogger(__name__)


class PrefixTable(Protocol):
    """The node's ipcache, as far as prefixes of policies go."""

    def publish(self, numbers: Mapping[str, int]) -> frozenset[str]:
        """Makes these all prefixes that policies name; returns those that came into the kernel just now."""

    def holds(self, prefix: str, number: int) -> bool:
        """Whether the kernel has this number for a prefix."""

    def prefix_faults(self) -> Mapping[str, WriteFault]:
        """Prefixes that the kernel did not take."""


class NodePrefixes:
    """What is named, numbered and published on one node."""

    def __init__(self, local: LocalIdentities, table: PrefixTable, checkpoint: Callable[[], None]) -> None:
        self._local, self._table, self._checkpoint = local, table, checkpoint
        self._durable = local.revision
        self._named_by: dict[int, tuple[SubjectPolicy, frozenset[str]]] = {}  # by id() of the policy
        self._kept = True  # what was restored is wanted until somebody says otherwise
        self._published: dict[str, int] = {}

    @property
    def durable(self) -> int:
        """The revision of local identities that is on disk."""
        return self._durable

    def named_in(self, policy: SubjectPolicy) -> frozenset[str]:
        """The prefixes of a policy's definitions."""
        known = self._named_by.get(id(policy))
        return known[1] if known is not None else _prefixes_of(policy)

    def want(self, policies: Iterable[SubjectPolicy], *, keep: bool) -> None:
        """Numbers for the prefixes of these policies; `keep` lets none go, since a map may rely on it."""
        alive = {id(policy): policy for policy in policies}
        if alive.keys() != self._named_by.keys() or keep != self._kept:
            known, self._kept = self._named_by, keep
            self._named_by = {
                number: known.get(number) or (policy, _prefixes_of(policy))
                for number, policy in alive.items()
            }
            wanted = frozenset[str]().union(*(prefixes for _, prefixes in self._named_by.values()))
            self._local.want_prefixes(wanted | self._local.wanted_prefixes() if keep else wanted)
        self.save()

    def save(self) -> None:
        """Numbers go to disk; until then nothing new is published."""
        revision = self._local.revision
        if self._durable == revision:
            return
        try:
            self._checkpoint()
        except OSError as error:
            logger.warning("local identities not saved", extra={log.ERROR: log.clip(error)})
        else:
            self._durable = revision

    def publish(self, covered: int) -> frozenset[str]:
        """Brings the ipcache up to what maps know; returns the prefixes that are in the kernel since now."""
        self._published = self._local.publishable(min(covered, self._durable))
        return self._table.publish(self._published)

    def retire(self) -> None:
        """Numbers that neither a policy nor the ipcache has go out of the table."""
        self._local.retire(self._table.holds)

    def obstacle(self, policy: SubjectPolicy, blocking: str) -> Failure | None:
        """Why a prefix of the policy cannot be told apart yet; `blocking` names a map in the way."""
        faults = self._table.prefix_faults()
        for prefix in sorted(self.named_in(policy)):
            fault = faults.get(prefix)
            if fault is not None:
                text = f"prefix {prefix} cannot be told apart: {fault.message}"
                if fault.full:
                    return Failure("RESOURCE_EXHAUSTED", "MAP_FULL", text)
                return Failure("UNAVAILABLE", "MAP_WRITE_FAILED", text)
            if prefix not in self._published and has_own_number(prefix):
                why = f"{blocking} cannot learn it" if blocking else "its number is not on disk"
                text = f"prefix {prefix} cannot be told apart yet: {why}; the last policy stays in force"
                return Failure("UNAVAILABLE", "PREFIX_NOT_PUBLISHED", text)
        return None


def _prefixes_of(policy: SubjectPolicy) -> frozenset[str]:
    return frozenset(
        prefix
        for definition in policy.selectors.values()
        if isinstance(definition, CidrDefinition)
        for prefix in (*definition.include, *definition.exclude)
    )
