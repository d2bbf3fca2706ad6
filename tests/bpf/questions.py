"""Packets to be judged by the kernel: how they look, and how its answer must fit the map's decision."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from axoneme.lib import identities
from axoneme.lib.policy.lookup import Decision, lookup
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey
from tests.bpf import packets as p
from tests.bpf.harness import POD, Datapath

WORLD_TWINS = (identities.WORLD_IPV4, identities.WORLD_IPV6)
DROP_OF = {None: 133, Action.DENY: 181, Action.REDIRECT: 180}
_VERDICT_EVENT, _DROP, _FORWARD = 5, 1, 4
_FORWARDED, _AUDITED = 1, 4

_ports = itertools.cycle(range(20_000, 60_000))  # no two questions share a connection


@dataclass(frozen=True)
class Question:
    """One packet to be judged. Without an `address` the peer has the one of its number."""

    direction: Direction
    peer: int
    protocol: int
    port: int
    v: int
    address: str = ""


def address_of(peer: int, v: int) -> str:
    """The address of a number in a family."""
    if peer in WORLD_TWINS:
        return "198.51.100.7" if v == 4 else "2001:db8::7"
    if v == 4:
        return f"10.{50 + (peer >> 16) % 200}.{peer >> 8 & 255}.{peer & 255}"
    return f"fd00:50::{peer >> 16:x}:{peer & 0xFFFF:x}"


def frame_of(question: Question) -> bytes:
    """The packet, between the endpoint and the peer."""
    pod, ours = POD[question.v], next(_ports)
    peer = question.address or address_of(question.peer, question.v)
    if question.protocol in (p.ICMP, p.ICMP6):
        body = p.icmp(question.port, ours)
    elif question.protocol == p.TCP:
        body = p.tcp(ours, question.port)
    elif question.protocol == p.UDP:
        body = p.udp(ours, question.port)
    else:
        body = p.sctp(ours, question.port)
    ends = (pod, peer) if question.direction is Direction.EGRESS else (peer, pod)
    return p.packet(*ends, question.protocol, body)


def decision_on(entries: Mapping[MapKey, MapEntry], question: Question) -> Decision:
    """What the map says, in Python."""
    return lookup(entries, question.direction, question.peer, question.protocol, question.port)


def ask_kernel(datapath: Datapath, question: Question, decision: Decision) -> bool:
    """Whether the kernel lets it pass; its drop reason and events must fit the map's decision."""
    frame = frame_of(question)
    egress = question.direction is Direction.EGRESS
    outcome = datapath.send(frame) if egress else datapath.receive(frame)
    verdict = outcome.event(_VERDICT_EVENT)
    peer = verdict["destination_identity"] if egress else verdict["source_identity"]
    assert int(peer) == question.peer
    if outcome.passed:
        assert outcome.types() == [_VERDICT_EVENT, _FORWARD]
        audited = decision.action is Action.DENY
        assert int(verdict["verdict"]) == (_AUDITED if audited else _FORWARDED)
    else:
        assert outcome.types() == [_VERDICT_EVENT, _DROP]
        assert outcome.drop_reason == DROP_OF[decision.action]
    assert int(verdict["match_type"]) == match_type(decision.key)
    return outcome.passed


def match_type(key: MapKey | None) -> int:
    """The code of an event for what matched."""
    if key is None:
        return 0
    bits, specific = key.ports.specificity, key.identity != 0
    if bits == 0:
        return 1 if specific else 4
    if bits == 8:
        return 5 if specific else 6
    return 2 if specific else 3


def expected_of(decision: Decision) -> bool:
    """Whether a packet passes: no redirect does before there is a proxy to take it."""
    return decision.forwarded and decision.action is not Action.REDIRECT
