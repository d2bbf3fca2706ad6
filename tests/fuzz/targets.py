"""What the fuzzers feed: each target takes bytes and raises only what it finds wrong.

`parse`: any text gives objects or InvalidPolicy whose faults have a position, and what was accepted reads the
same from its stored form. `resolve`: whatever was accepted resolves, and the finished map decides as the
contributions do. `dns_question` and `dns_answer`: any bytes give a value that keeps its promises, or
Malformed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

from axoneme.lib import identities
from axoneme.lib.dns import wire
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.judge import judge
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction, SubjectPolicy
from axoneme.lib.policy.outside import outside_labels
from services.policy.inputs import PolicySettings
from services.policy.questions.changeset import put
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import ParsedObject, parse_object, parse_objects
from services.policy.resolution.engine import PolicyEngine

PACKETS = ((6, 80), (6, 443), (17, 53), (132, 1), (1, 0), (58, 128))
RESERVED = (identities.HOST, identities.REMOTE_NODE, identities.WORLD_IPV4, identities.WORLD_IPV6)
ADDRESSES = ("10.1.2.3", "192.0.2.7", "2001:db8::7")
PODS = {
    1000: workload_labels(["app=web", "tier=front"], namespace="default", cluster="default"),
    1001: workload_labels(["app=db"], namespace="default", cluster="default"),
    1002: workload_labels(["app=web"], namespace="other", cluster="elsewhere"),
}


def parse(data: bytes) -> None:
    """Reading never fails but by InvalidPolicy, and storing loses nothing."""
    for one in _parsed(data):
        again = parse_object(json.loads(json.dumps(one.document)))
        if again != one:
            raise AssertionError(f"{one.key} reads differently from its stored form")


def resolve(data: bytes) -> None:
    """Accepted policies resolve, and maps decide as contributions do."""
    objects = _parsed(data)
    if not objects:
        return
    engine = PolicyEngine(PolicySettings())
    for number, labels in PODS.items():
        engine.put_identity(number, labels)
    for one in objects:
        put(engine, one)
    engine.drain(1)
    for number in PODS:
        policy = engine.subject(number)
        if policy is not None:
            _check(policy, len(data))


def _parsed(data: bytes) -> list[ParsedObject]:
    text = data.decode(errors="surrogateescape")
    try:
        return parse_objects(text)
    except InvalidPolicy as error:
        if not error.violations:
            raise AssertionError("a refusal without a fault") from error
        return []


def _check(policy: SubjectPolicy, seed: int) -> None:
    """One packet to and from a few peers; which one follows from the input, so that a finding repeats."""
    local: dict[int, LabelSet] = {number: identities.RESERVED[number][1] for number in RESERVED}
    for index, address in enumerate(ADDRESSES):
        local[identities.LOCAL_SCOPE + index] = outside_labels(address, policy.selectors.values())
    entries = finish(policy, local_identities=local, named_ports={(6, "web"): 80})
    protocol, port = PACKETS[seed % len(PACKETS)]
    for direction, peer in itertools.product(Direction, (*PODS, *local)):
        by_map = lookup(entries, direction, peer, protocol, port)
        by_rules = judge(
            policy,
            direction,
            peer,
            protocol,
            port,
            local_identities=local,
            named_ports={(6, "web"): 80},
        )
        if by_map.forwarded != by_rules.forwarded:
            raise AssertionError(f"map and rules differ: {direction.name} {peer} {protocol}/{port}")


def dns_question(data: bytes) -> bool:
    """A query is understood in full or not at all, and its refusal is an answer to it."""
    try:
        question = wire.read_question(data)
    except wire.Malformed:
        return False
    if wire.wire_of(wire.text_of(question.name)) != question.name or len(question.name) > 255:
        raise AssertionError("a name that is not its own text")
    refused = wire.refusal(data, question.end, 5)
    if not wire.answers_question(data, refused, question.end):
        raise AssertionError("a refusal that is no answer")
    answer = wire.read_answer(refused, question)
    if answer.rcode != 5 or answer.usable or answer.rrtypes or len(refused) > question.end + 11:
        raise AssertionError("a refusal that says more than no")
    return True


def dns_answer(data: bytes) -> bool:
    """An answer to its own question; whether it is usable."""
    try:
        question = wire.read_question(data[:2] + bytes(byte & 1 for byte in data[2:3]) + data[3:])
        answer = wire.read_answer(data, question)
    except wire.Malformed:
        return False
    names = [wire.text_of(name) for name in answer.cnames]
    if [wire.text_of(wire.wire_of(name)) for name in names] != names or len(answer.rrtypes) > 4_000:
        raise AssertionError("a name that is not its own text, or too many records")
    if any(len(address) not in (4, 16) for address in answer.addresses) or not 0 <= answer.ttl < 1 << 31:
        raise AssertionError("an address or a TTL that is none")
    if answer.usable and (answer.rcode or not answer.addresses):
        raise AssertionError("usable without use")
    return answer.usable


TARGETS: dict[str, Callable[[bytes], object]] = {
    "parse": parse,
    "resolve": resolve,
    "dns_question": dns_question,
    "dns_answer": dns_answer,
}
