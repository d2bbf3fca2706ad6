"""Identities of names: which sets of DNS selectors have a number here, and when the proxy may use it.

    selectors of policies ─► sets that they can produce × prefixes ─┐
    sets that the proxy met unforeseen ─────────────────────────────┴► numbers ─► [maps know them] ─► file
    file without a set ─► [proxy keeps nothing under it] ─► number retired ─► [maps forget] ─► free

No packet meets a number that its map does not know: a set stands in the file only while every map knows it,
and its number lives until nothing is learned under it. A policy with new selectors, or with new prefixes
while names are learned, waits until the proxy has moved what it learned before to the new identities, so that
a denied prefix holds for learned addresses from the first packet on. The file changes as a whole: until all
that policies ask for is known to all maps, the last one stands, and what is in it stays numbered.

What a restarted shim finds stays as it is until `want` is told of all policies (`keep`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol, TypeAlias

from axoneme.lib import log
from axoneme.lib.errors import InvalidArgument, ResourceExhausted
from axoneme.lib.intent import Failure
from axoneme.lib.policy.model import FqdnDefinition, SubjectPolicy
from shim.dns.table import IdentityTable
from shim.localidentities import LocalIdentities, LocalKey, has_own_number

logger = logging.getLogger(__name__)

MAX_AHEAD: Final = 4_096
MAX_ON_DEMAND: Final = 1_024
WORLDS: Final = ("0.0.0.0/0", "::/0")

Sets: TypeAlias = frozenset[frozenset[str]]
PossibleSets: TypeAlias = Callable[[Iterable[FqdnDefinition], int], Sets]
"""Every set of selectors that some name can match, up to a limit (axoneme.lib.dns.sets)."""


class TableFile(Protocol):
    """Where the table is written (shim.dns.table)."""

    @property
    def path(self) -> object: ...

    def load(self) -> IdentityTable:
        """The table of an earlier life."""

    def save(self, table: IdentityTable) -> None:
        """Replaces it. Raises OSError."""


class NameIdentities:
    """Sets of DNS selectors with numbers, and the file that tells the proxy."""

    def __init__(
        self,
        local: LocalIdentities,
        file: TableFile,
        possible: PossibleSets,
        *,
        enabled: bool,
        max_on_demand: int = MAX_ON_DEMAND,
    ) -> None:
        """`enabled`: the node has a DNS proxy; without one nothing is learned."""
        self.table = file.load()
        self.applied_revision = 0
        """Nothing is learned, nor will be, under an identity that this revision of the file lacks."""
        self.moved_revision = 0
        """As `applied_revision`, except for what a proxy that starts at this moment may do."""
        self.problem = ""
        self._local, self._file, self._possible = local, file, possible
        self._enabled, self._max_on_demand = enabled, max_on_demand
        self._named_in: dict[int, tuple[SubjectPolicy, frozenset[FqdnDefinition]]] = {}  # by id()
        self._selectors = self.table.selectors
        self._prefixes = self.table.prefixes
        self._kept = True
        self._sets: tuple[frozenset[FqdnDefinition], Sets] = (frozenset(), frozenset())
        self._wanted: set[LocalKey] = set()
        self._declared: set[LocalKey] = set()
        self._on_demand: set[LocalKey] = set()
        self._idle: set[LocalKey] = set()
        self._leaving: dict[LocalKey, int] = {}  # revision of the file that first lacks it
        self._since: dict[str, int] = {}  # selectors and prefixes: revision that first has it
        self._note_since()

    def load(self) -> None:
        """After the numbers of an earlier life were loaded: all stay wanted until policies are known."""
        known = self._local.wanted_names()
        named = self.table.named
        if any(self._local.number_of(key.prefix, key.names) != number for key, number in named.items()):
            # The state file is another's, or was lost: the proxy must not go on with numbers of the past.
            self.table = IdentityTable(revision=self.table.revision)
            self._selectors, self._prefixes, self._since = frozenset(), frozenset(), {}
        self._leaving = {key: self.table.revision for key in known if key not in self.table.numbers}
        self._on_demand = set(known - self._leaving.keys())
        self._wanted, self._declared = set(self._on_demand), set(known)

    # --- what is wanted

    def names_in(self, policy: SubjectPolicy) -> frozenset[FqdnDefinition]:
        """The DNS selectors of a policy."""
        known = self._named_in.get(id(policy))
        return known[1] if known is not None else _names_of(policy)

    def want(self, policies: Iterable[SubjectPolicy], prefixes: Collection[str], *, keep: bool) -> None:
        """Numbers for what these policies can produce; `keep` lets nothing go."""
        alive = {id(policy): policy for policy in policies}
        known = self._named_in
        self._named_in = {
            number: known.get(number) or (policy, _names_of(policy)) for number, policy in alive.items()
        }
        selectors: frozenset[FqdnDefinition] = frozenset()
        if self._enabled:
            selectors = selectors.union(*(names for _, names in self._named_in.values()))
        if keep:
            selectors |= self.table.selectors
        usable = frozenset(prefix for prefix in prefixes if has_own_number(prefix))
        if (selectors, usable, keep) != (self._selectors, self._prefixes, self._kept):
            self._selectors, self._prefixes, self._kept = selectors, usable, keep
            self._on_demand = set(filter(self._can_be, self._on_demand))
        self._declare()

    def ask(self, prefix: str, names: Collection[str]) -> LocalKey:
        """Wants a set that nobody foresaw; its number is there when `table` has it.

        Raises InvalidArgument for what the file cannot produce, ResourceExhausted when there are too many.
        """
        key = LocalKey(prefix, frozenset(names))
        in_file = prefix in WORLDS or prefix in self.table.prefixes
        if not key.names or not in_file or not key.names <= self.table.texts:
            raise InvalidArgument("the set of names is not of this revision of the file: read it again")
        if key not in self._wanted and len(self._on_demand) >= self._max_on_demand:
            self.problem = (
                f"{len(self._on_demand)} unforeseen sets of DNS selectors have identities, and no more are "
                "given: names that match others are known by fewer selectors; use fewer overlapping patterns"
            )
            raise ResourceExhausted(self.problem, reason="LOCAL_IDENTITIES_EXHAUSTED")
        if key not in self._wanted:
            self._on_demand.add(key)
            self._declare()
        return key

    def drop_idle(self, used: Collection[int]) -> None:
        """Unforeseen sets under which nothing is learned, now and when last asked, go."""
        numbers = self.table.named
        idle = {key for key in self._on_demand if numbers.get(key) not in used}
        self._on_demand -= idle & self._idle
        self._idle = idle - (idle & self._idle)
        if len(self._on_demand) < self._max_on_demand:
            self.problem = ""
        self._declare()

    @property
    def unforeseen(self) -> int:
        """Number of sets that were asked for."""
        return len(self._on_demand)

    def _can_be(self, key: LocalKey) -> bool:
        texts = {one.text for one in self._selectors}
        return (key.prefix in WORLDS or key.prefix in self._prefixes) and key.names <= texts

    def _declare(self) -> None:
        """Foreseen, unforeseen, and whatever the proxy may still use."""
        self._wanted = self._ahead() | self._on_demand
        all_of_them = self._wanted | self._leaving.keys() | self.table.named.keys()
        if all_of_them != self._declared:
            self._declared = all_of_them
            self._local.want_names(all_of_them)

    def _ahead(self) -> set[LocalKey]:
        if self._sets[0] != self._selectors:
            limit = MAX_AHEAD // len(WORLDS)
            self._sets = (self._selectors, self._possible(self._selectors, limit))
        sets = [one for one in self._sets[1] if one]
        around = [*WORLDS, *sorted(self._prefixes)]
        if len(sets) * len(around) > MAX_AHEAD:
            around = [*WORLDS]
        return {LocalKey(prefix, names) for prefix in around for names in sets}

    # --- the file

    def publish(self, covered: int) -> bool:
        """Writes the file when every map, all at `covered`, knows what is wanted; True when it is another."""
        if not self._enabled and not self.table.selectors and not self.table.prefixes:
            return False
        if not self._enabled:
            return self._write(IdentityTable(self.table.revision + 1))
        prefixes = self._local.publishable(covered)
        names = {key: self._local.known_number(key, covered) for key in self._wanted}
        if self._prefixes - prefixes.keys() or None in names.values():
            return False
        numbers = {LocalKey(prefix): prefixes[prefix] for prefix in self._prefixes}
        numbers.update((key, number) for key, number in names.items() if number is not None)
        table = IdentityTable(self.table.revision + 1, self._selectors, self._prefixes, numbers)
        return not table.says_as(self.table) and self._write(table)

    def _write(self, table: IdentityTable) -> bool:
        try:
            self._file.save(table)
        except OSError as error:
            self.problem = f"identities of names cannot be written to {self._file.path}: {error}"
            logger.warning("identities of names not written", extra={log.ERROR: log.clip(error)})
            return False
        self.problem = ""
        gone = [key for key in self.table.named if key not in table.numbers]
        self.table = table
        self._leaving = {key: since for key, since in self._leaving.items() if key not in table.numbers}
        self._leaving.update(dict.fromkeys(gone, table.revision))
        self._note_since()
        self._declare()
        return True

    def _note_since(self) -> None:
        present = (*self.table.texts, *self.table.prefixes)
        self._since = {name: self._since.get(name, self.table.revision) for name in present}

    def applied(self, revision: int) -> bool:
        """Nothing is learned under what this revision lacks; True when that is news."""
        if not self.applied_revision < revision <= self.table.revision:
            return False
        self.applied_revision = revision
        self.moved_revision = max(self.moved_revision, revision)
        self._leaving = {key: since for key, since in self._leaving.items() if since > revision}
        self._declare()
        return True

    @property
    def in_step(self) -> bool:
        """Whether everything learned is learned under the file as it is."""
        return self.applied_revision >= self.table.revision

    def moved(self, revision: int) -> None:
        """What is learned was brought into line while no proxy was connected."""
        self.moved_revision = max(self.moved_revision, revision)

    def obstacle(self, policy: SubjectPolicy, prefixes: Iterable[str], blocking: str) -> Failure | None:
        """Why a policy has to wait; `blocking` names a map that cannot learn new identities."""
        if not self._enabled:
            return None
        for text in sorted(one.text for one in self.names_in(policy)):
            if text not in self._since:
                why = f"{blocking} cannot learn it" if blocking else self.problem or "its file is not written"
                return _not_ready(f"DNS selector {text} has no identities yet: {why}")
            if self._since[text] > self.moved_revision:
                return _not_ready(f"the DNS proxy does not know the identities of selector {text} yet")
        if self.table.selectors:
            for prefix in sorted(prefixes):
                if self._since.get(prefix, 0) > self.moved_revision:
                    return _not_ready(
                        f"the DNS proxy does not tell learned addresses inside {prefix} apart yet"
                    )
        return None


def _not_ready(text: str) -> Failure:
    return Failure("UNAVAILABLE", "DNS_RULES_NOT_READY", f"{text}; the last policy stays in force")


def _names_of(policy: SubjectPolicy) -> frozenset[FqdnDefinition]:
    return frozenset(one for one in policy.selectors.values() if isinstance(one, FqdnDefinition))
