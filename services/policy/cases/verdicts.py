"""The verdict of one subject's policy on a packet, in the words of test files, and why.

    SubjectPolicy ──finish──> map entries ──two look-ups──> allow, deny, redirect:http, audit

`View` answers for one endpoint on one node. It finds what `axoneme.lib.policy.lookup` finds, but keeps the
entries of a direction and identity together, since test files ask a hundred thousand times. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.judge import Judgement, judge
from axoneme.lib.policy.model import (
    ANY_IDENTITY,
    Action,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    MapEntry,
    MapKey,
    NamedPort,
    Origin,
    PortBlock,
    SubjectPolicy,
    one_port,
)

ALLOW: Final = "allow"
DENY: Final = "deny"
NOT_ENFORCED: Final = "none"
ERROR: Final = "error"
AUDIT: Final = "audit"
STOPPED: Final = frozenset({DENY, ERROR})
LEVEL_SHIFT: Final = 8
"""The bits of a precedence word below tier and priority."""

NamedPorts = Mapping[tuple[int, str], int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet at one side. `key` and `entry` decided; None is default deny or no policy."""

    text: str
    key: MapKey | None = None
    entry: MapEntry | None = None

    @property
    def forwarded(self) -> bool:
        """Whether the packet goes on."""
        return self.text not in STOPPED

    @property
    def auth(self) -> AuthMode | None:
        """What the connection must prove."""
        return self.entry.auth if self.entry is not None else None


NO_POLICY: Final = Verdict(NOT_ENFORCED)
FAULTY: Final = Verdict(ERROR)
DEFAULT_DENY: Final = Verdict(DENY)


def text_of(entry: MapEntry | None) -> str:
    """The word for a decision; no entry is default deny."""
    if entry is None:
        return DENY
    if entry.action is Action.DENY:
        return AUDIT if entry.audit else DENY
    return f"redirect:{entry.redirect.parser}" if entry.redirect is not None else ALLOW


class View:
    """The policy of one endpoint, finished on one node."""

    def __init__(
        self, policy: SubjectPolicy, local_identities: Mapping[int, LabelSet], named_ports: NamedPorts
    ) -> None:
        self.policy = policy
        self.local_identities = local_identities
        self.named_ports = named_ports
        self.entries = finish(policy, local_identities=local_identities, named_ports=named_ports)
        self._trees: dict[tuple[Direction, int], list[tuple[PortBlock, Verdict]]] = {}
        for key, entry in self.entries.items():
            found = (key.ports, Verdict(text_of(entry), key, entry))
            self._trees.setdefault((key.direction, key.identity), []).append(found)
        for tree in self._trees.values():
            tree.sort(key=lambda found: -found[0].specificity)
        self._of_anyone: dict[tuple[Direction, int, int], Verdict | None] = {}

    def verdict(self, direction: Direction, identity: int, protocol: int, port: int) -> Verdict:
        """Decide on a packet by the peer's identity and the destination's protocol and port."""
        question = (direction, protocol, port)
        if question in self._of_anyone:
            wide = self._of_anyone[question]
        else:
            wide = self._of_anyone[question] = self._longest(direction, ANY_IDENTITY, protocol, port)
        narrow = self._longest(direction, identity, protocol, port)
        if narrow is None or wide is None:
            return narrow or wide or DEFAULT_DENY
        return narrow if _rank(narrow) >= _rank(wide) else wide

    def _longest(self, direction: Direction, identity: int, protocol: int, port: int) -> Verdict | None:
        for block, verdict in self._trees.get((direction, identity), ()):
            if block.protocol == 0 or (
                block.protocol == protocol and (block.port ^ port) >> (16 - block.prefix_length) == 0
            ):
                return verdict
        return None

    def default_allows(self, direction: Direction) -> bool:
        """Whether no rule locks the direction, so that L7 rules drop nothing."""
        return self.policy.enforcement(direction) is Enforcement.DEFAULT_ALLOW

    def judgement(self, direction: Direction, identity: int, protocol: int, port: int) -> Judgement:
        """The same question judged by brute force, with the rules that won and those that lost."""
        return judge(
            self.policy,
            direction,
            identity,
            protocol,
            port,
            local_identities=self.local_identities,
            named_ports=self.named_ports,
        )

    def origins(self, contributions: Iterable[Contribution]) -> tuple[Origin, ...]:
        """The rules behind contributions."""
        return self._named(number for one in contributions for number in one.origins)

    def locked_by(self, direction: Direction) -> tuple[Origin, ...]:
        """The rules that switch default deny on in a direction."""
        return self._named(self.policy.default_deny(direction))

    def _named(self, numbers: Iterable[int]) -> tuple[Origin, ...]:
        known = self.policy.origins
        return tuple(sorted({known[number] for number in numbers if number in known}, key=origin_text))


def _rank(verdict: Verdict) -> tuple[int, int]:
    key, entry = verdict.key, verdict.entry
    return (0, 0) if key is None or entry is None else (entry.precedence, key.ports.specificity)


def covers(ports: PortBlock | NamedPort, protocol: int, port: int, named_ports: NamedPorts) -> bool:
    """Whether ports, a name resolved for this endpoint, hold a packet's."""
    if isinstance(ports, NamedPort):
        return ports.protocol == protocol and named_ports.get((protocol, ports.name)) == port
    if protocol == 0:
        return ports.protocol == 0
    return ports.covers(one_port(protocol, port))


def word_of(judgement: Judgement) -> str:
    """The word for a judgement; the same as `text_of` gives for the entry of a map."""
    if judgement.audit:
        return AUDIT
    if judgement.action is None:
        return ALLOW if judgement.forwarded else DENY
    if judgement.redirect is not None:
        return f"redirect:{judgement.redirect.parser}"
    return ALLOW if judgement.action is Action.ALLOW else DENY


def every_match(judgement: Judgement) -> list[Contribution]:
    """All contributions that match, whether they decide or not."""
    return [*judgement.winners, *(one for one, _ in judgement.losers)]


def deciding_level(judgement: Judgement) -> list[Contribution]:
    """Those of the matching contributions that have the tier and priority of the winners."""
    levels = {one.precedence >> LEVEL_SHIFT for one in judgement.winners}
    return [one for one in every_match(judgement) if one.precedence >> LEVEL_SHIFT in levels]


def origin_text(origin: Origin) -> str:
    """A rule as people name it: `CiliumNetworkPolicy/shop/web spec.ingress[0]`."""
    parts = [part for part in (origin.kind, origin.namespace, origin.name) if part]
    return f"{'/'.join(parts)} {origin.rule}".strip()


def names_policy(name: str, origin: Origin) -> bool:
    """Whether a name, alone or with namespace and kind, is the policy of an origin."""
    wanted = name.split("/")
    full = [origin.kind, origin.namespace, origin.name]
    given = [part for part in full if part]
    return wanted == given[-len(wanted) :] or (len(wanted) == 2 and wanted == [origin.kind, origin.name])
