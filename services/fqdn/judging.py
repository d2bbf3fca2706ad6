"""May this endpoint ask that server for this name? For the hot loop: tables are swapped by reference.

    client ─► endpoint, subject ─┐
    server ─► what the endpoint learned it as, else the ipcache ─► number, labels
                                 ├─► rules of (subject, transport, port) whose servers these are
                                 └─► highest level ─► union of names ─► NameIndex

The answer to (subject, transport, port, server) is remembered as a compiled index, so a query costs the same
however many rules and patterns there are. Who is unknown, and who has no rule, is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from axoneme.lib import identities
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.wire import Question
from axoneme.lib.policy.model import AnyPeer, FqdnDefinition, IdentityPeer, SelectorPeer
from axoneme.lib.policy.selection import selects
from axoneme.lib.policy.subjects import subject_key
from services.fqdn.model import Flow, Ruling, Standing, no_name
from services.fqdn.pins import Subject, short_address
from services.fqdn.rulebook import HeldRule, RuleBook
from services.fqdn.tables import IdentityTable

_GENERATION: Final = 4_096
Matches = Callable[[bytes], bool]
NO_RULE, NO_NAME = "no rule for this server and port", "no rule for this name"
UNKNOWN_ENDPOINT, NO_MAPS = "the address is of no endpoint of this node", "the node's maps cannot be read"


class Subjects(Protocol):
    """What is asked of the node's maps; each may raise OSError."""

    def subject_of(self, address: bytes) -> Subject | None: ...
    def identity_of(self, address: bytes) -> int: ...


@functools.lru_cache(maxsize=1_024)
def _index(names: frozenset[FqdnDefinition]) -> NameIndex:
    return NameIndex(names)


def every_name(name: bytes) -> bool:  # noqa: ARG001 - any
    """The names of a rule that names none."""
    return True


class RuleTable:
    """Rules and labels of one moment, with what was compiled of them so far."""

    def __init__(
        self, rules: Mapping[str, frozenset[HeldRule]] | None = None, table: IdentityTable | None = None
    ) -> None:
        self._rules = {key: tuple(some) for key, some in (rules or {}).items()}
        self._identities = table or IdentityTable()
        # Two generations: what was used since the last turn outlives it, which is nearly LRU and cheaper.
        self._young: dict[tuple[int, int, int, int], Matches | None] = {}
        self._old: dict[tuple[int, int, int, int], Matches | None] = {}

    @classmethod
    def of(cls, book: RuleBook, table: IdentityTable) -> RuleTable:
        """What a book says now."""
        return cls({subject: book.effective(subject) for subject in book.subjects()}, table)

    def names_for(self, subject: int, protocol: int, port: int, server: int) -> Matches | None:
        """Which names may be asked for; None when no rule is about this server and port."""
        key = (subject, protocol, port, server)
        try:
            return self._young[key]
        except KeyError:
            found = self._old[key] if key in self._old else self._compile(*key)
        if len(self._young) >= _GENERATION:
            self._old, self._young = self._young, {}
        self._young[key] = found
        return found

    def _compile(self, subject: int, protocol: int, port: int, server: int) -> Matches | None:
        rules = self._rules.get(subject_key(subject), ())
        serving = [one.rule for one in rules if one.rule.covers(protocol, port) and self._serves(one, server)]
        if not serving:
            return None
        level = max(rule.level for rule in serving)
        deciding = [rule for rule in serving if rule.level == level]
        if any(rule.every_name for rule in deciding):
            return every_name
        return _index(frozenset().union(*(rule.names for rule in deciding))).matches

    def _serves(self, one: HeldRule, server: int) -> bool:
        """Whether a rule is about a server. What selects nobody, or is not known, is about none."""
        peer = one.rule.peer
        if isinstance(peer, AnyPeer):
            return True
        if isinstance(peer, IdentityPeer):
            return peer.number == server
        if not isinstance(peer, SelectorPeer) or one.definition is None:
            return False
        # A selector reference is for identities that the node itself knows; numbers of the cluster have none.
        labels = self._identities.labels_of(server)
        return labels is not None and selects(one.definition, labels)


class RuleJudge:
    """`Judge` of the hot loop; `table` is replaced by the main thread."""

    def __init__(self, maps: Subjects | None, learned: Callable[[int, bytes], int]) -> None:
        self.maps = maps
        self.table = RuleTable()
        self._learned = learned

    def judge(self, flow: Flow, question: Question) -> Ruling:
        """Whether the client may ask the server for this name."""
        standing = self.standing(flow)
        return standing.yes if standing.matches(question.name) else standing.no

    def standing(self, flow: Flow) -> Standing:
        """See `model.Judge`. Only what allows something lasts: who is refused is looked at each time."""
        if self.maps is None:
            return _nothing(0, 0, NO_MAPS)
        try:
            subject = self.maps.subject_of(short_address(flow.client))
            if subject is None:
                return _nothing(0, 0, UNKNOWN_ENDPOINT)
            address = short_address(flow.server)
            server = self._learned(subject.endpoint_id, address) or self.maps.identity_of(address)
        except OSError:
            return _nothing(0, identities.UNKNOWN, NO_MAPS)
        matches = self.table.names_for(subject.identity, flow.protocol, flow.server_port, server)
        if matches is None:
            return _nothing(subject.endpoint_id, server, NO_RULE)
        yes = Ruling(True, subject.endpoint_id, server)
        return Standing(matches, yes, Ruling(False, subject.endpoint_id, server, NO_NAME))


def _nothing(endpoint_id: int, server: int, reason: str) -> Standing:
    no = Ruling(False, endpoint_id, server, reason)
    return Standing(no_name, no, no, lasting=False)
