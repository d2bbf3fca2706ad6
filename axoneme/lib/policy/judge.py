"""The verdict on one packet straight from the contributions, with the rules that won and those that lost.

    contributions that match ─┬─ without audited ones ─> tier by tier ─┐
                              └─ all ──────────────────> tier by tier ─┴─> judgement

For explanations and tests: it builds no map and shares no evaluation with `finish`, and has to agree with the
look-up in a finished map. Its text is plain English for the people who wrote the rules. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.groups import GroupedContributions
from axoneme.lib.policy.losing import Winner, why_it_lost
from axoneme.lib.policy.model import (
    Action,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    NamedPort,
    Peer,
    PortBlock,
    Redirect,
    SelectorPeer,
    SubjectPolicy,
)
from axoneme.lib.policy.precedence import priority_of, tier_of
from axoneme.lib.policy.selection import selects


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What happens to a packet, and because of which rules.

    `action` is None where no rule decides: then `default` holds. With `audit` (the action is DENY) the packet
    passes and is reported; without winners it is then the default of the audited policies that would drop it.
    `losers` matched too; each has the reason why it did not decide.
    """

    action: Action | None
    audit: bool = False
    auth: AuthMode | None = None
    redirect: Redirect | None = None
    winners: tuple[Contribution, ...] = ()
    losers: tuple[tuple[Contribution, str], ...] = ()
    default: Enforcement

    @property
    def forwarded(self) -> bool:
        """Whether the packet goes on, to its destination or to a proxy."""
        if self.action is None:
            return self.default is Enforcement.DEFAULT_ALLOW
        return self.action is not Action.DENY or self.audit


def judge(
    policy: SubjectPolicy,
    direction: Direction,
    identity: int,
    protocol: int,
    port: int,
    *,
    local_identities: Mapping[int, LabelSet],
    named_ports: Mapping[tuple[int, str], int],
    labels: LabelSet | None = None,
) -> Judgement:
    """Judge one packet by looking at every contribution.

    `labels` are those of a node-local identity that is not among `local_identities`. Raises KeyError for a
    reference without a definition.
    """
    known = local_identities.get(identity, labels)
    ports = _Ports(protocol, port, named_ports)
    matching = [
        one
        for one in _for_peer(policy, identity, known)
        if one.direction is direction and ports.matched_by(one)
    ]
    return _judged(matching, policy.enforcement(direction), policy.audited_enforcement(direction), ports)


@dataclass(frozen=True, slots=True)
class _Ports:
    """The packet's side of a comparison with ports."""

    protocol: int
    port: int
    named_ports: Mapping[tuple[int, str], int]

    def matched_by(self, one: Contribution) -> bool:
        """Whether the ports of a contribution hold the packet's."""
        ports = one.ports
        if isinstance(ports, NamedPort):
            number = self.named_ports.get((ports.protocol, ports.name))
            return ports.protocol == self.protocol != 0 and number == self.port
        if ports.protocol == 0:
            return True
        last = ports.port + (1 << (16 - ports.prefix_length)) - 1
        return ports.protocol == self.protocol and ports.port <= self.port <= last

    def narrowness(self, one: Contribution) -> tuple[int, bool]:
        """Grows with the bits of protocol and port; the identity's own before everyone's."""
        bits = one.ports.specificity if isinstance(one.ports, PortBlock) else 24
        return bits, not isinstance(one.peer, AnyPeer)


def _for_peer(policy: SubjectPolicy, identity: int, labels: LabelSet | None) -> Iterator[Contribution]:
    """The contributions for a peer; groups are asked as wholes because they may have very many peers."""

    def is_meant(peer: Peer) -> bool:
        if isinstance(peer, SelectorPeer):
            return labels is not None and selects(policy.selectors[peer.key], labels)
        return isinstance(peer, AnyPeer) or (isinstance(peer, IdentityPeer) and peer.number == identity)

    contributions = policy.contributions
    if not isinstance(contributions, GroupedContributions):
        yield from (one for one in contributions if is_meant(one.peer))
        return
    for group in contributions.groups:
        peers: list[Peer] = [peer for peer in group.fixed if is_meant(peer)]
        if identity in group.numbers:
            peers.append(IdentityPeer(identity))
        yield from group.of_peers(peers)


def _judged(
    matching: Sequence[Contribution], enforced: Enforcement, audited: Enforcement, ports: _Ports
) -> Judgement:
    real = [one for one in matching if not one.audit]
    winner = _winner(real, ports)
    forwarded = enforced is Enforcement.DEFAULT_ALLOW if winner is None else winner.action is Action.ALLOW
    if forwarded:
        against = _winner(matching, ports)
        dropped = audited is Enforcement.DEFAULT_DENY if against is None else against.action is Action.DENY
        if dropped:
            return _judgement(matching, against, audited, ports, audit=True)
    return _judgement(matching, winner, enforced, ports, audit=False)


def _judgement(
    matching: Sequence[Contribution],
    winner: Winner | None,
    default: Enforcement,
    ports: _Ports,
    *,
    audit: bool,
) -> Judgement:
    considered = [one for one in matching if audit or not one.audit]
    winners = [one for one in considered if winner is not None and winner.behind(one)]
    losers = [one for one in matching if one not in winners]

    def order(one: Contribution) -> tuple[object, ...]:
        return (-one.precedence, ports.narrowness(one), sorted(one.origins), repr(one))

    if winner is None:
        action = Action.DENY if audit else None
        auth = None
    else:
        action = winner.action
        auth = _auth(considered, winner, ports)
    return Judgement(
        action=action,
        audit=audit,
        auth=auth,
        redirect=winner.redirect if winner is not None else None,
        winners=tuple(sorted(winners, key=order)),
        losers=tuple((one, why_it_lost(one, winner, audit=audit)) for one in sorted(losers, key=order)),
        default=default,
    )


def _winner(matching: Iterable[Contribution], ports: _Ports) -> Winner | None:
    """What decides: the first tier whose strongest level does not pass."""
    left = list(matching)
    while left:
        tier = min(tier_of(one.precedence) for one in left)
        here = [one for one in left if tier_of(one.precedence) == tier]
        priority = min(priority_of(one.precedence) for one in here)
        level = [one for one in here if priority_of(one.precedence) == priority]
        for action in (Action.DENY, Action.REDIRECT, Action.ALLOW):
            doing = [one for one in level if one.action is action]
            if doing:
                return Winner(tier, priority, action, _target(doing, ports))
        left = [one for one in left if tier_of(one.precedence) > tier]
    return None


def _target(doing: Sequence[Contribution], ports: _Ports) -> Redirect | None:
    """Where the strongest redirect goes; the narrower one where two are equally strong."""
    redirects = [(one.redirect, one) for one in doing if one.redirect is not None]
    if not redirects:
        return None
    redirect, _ = max(
        redirects,
        key=lambda pair: (pair[1].precedence & 0xFF, ports.narrowness(pair[1]), pair[0]),
    )
    return redirect


def _auth(considered: Iterable[Contribution], winner: Winner, ports: _Ports) -> AuthMode | None:
    """What the narrowest winning rules ask for, else the strictest that less narrow rules ask for."""
    if winner.action is Action.DENY:
        return None
    narrowest = max(ports.narrowness(one) for one in considered if winner.behind(one))
    own, wider = [], []
    for one in considered:
        if one.auth is None:
            continue
        if ports.narrowness(one) < narrowest:
            wider.append(one.auth)
        elif ports.narrowness(one) == narrowest and winner.behind(one):
            own.append(one.auth)
    return max(own or wider, default=None)
