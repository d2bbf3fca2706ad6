"""What programs remember of the ipcache and of policies never outlives a write: the next packet sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axoneme.lib.bpf import KernelMap
from axoneme.lib.bpf.create import create_map
from axoneme.lib.policy.model import Direction, MapEntry, MapKey, one_port
from shim.innermaps import Content, InnerMaps
from shim.maps import base, layout
from tests.bpf import packets as p
from tests.bpf.harness import ANY, PEER, PEER_IDENTITY, POD, POD_ID, Datapath, Outcome, allow, deny
from tests.conftest import scaled

pytestmark = [pytest.mark.root, pytest.mark.slow]

IN = Direction.INGRESS
WIDE = {4: "10.1.0.0/16", 6: "fd00:10:1::/48"}
NARROW = {4: "10.1.9.0/24", 6: "fd00:10:1:9::/64"}
ALONE = {4: "10.1.9.9/32", 6: "fd00:10:1:9::9/128"}
OTHER_IDENTITY = 6002
POLICY_DENIED, POLICY_DENY, NOT_READY, NO_IDENTITY = 133, 181, 203, 171
Entries = dict[MapKey, MapEntry]


@pytest.fixture(autouse=True)
def one_processor() -> Iterator[None]:
    """Each processor remembers for itself."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(params=[4, 6])
def v(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def knock(datapath: Datapath, v: int, port: int = 80) -> Outcome:
    """A packet of a flow of which nothing is known yet."""
    datapath.forget_connections()
    return datapath.receive(p.packet(PEER[v], POD[v], p.TCP, p.tcp(1000, port)))


def passes(datapath: Datapath, v: int) -> bool:
    """Asked twice: the second answer may be a remembered one."""
    first, second = knock(datapath, v), knock(datapath, v)
    assert (first.passed, first.drop_reason) == (second.passed, second.drop_reason)
    return first.passed


def forget_prefix(datapath: Datapath, prefix: str) -> None:
    bpf_map = "axoneme_ipexact" if prefix in ALONE.values() else "axoneme_ipcache"
    key = base.IpcacheKey.of(prefix).pack()
    datapath.maps[bpf_map].delete(key[4:] if bpf_map == "axoneme_ipexact" else key)


def content_of(entries: Entries) -> Content:
    return {layout.policy_key(k): layout.policy_entry(k, one, cookie=0) for k, one in entries.items()}


def inner_maps(datapath: Datapath, made: list[KernelMap]) -> InnerMaps:
    async def new_policy_map() -> KernelMap:
        made.append(create_map(layout.POLICY_INNER))
        return made[-1]

    kernel: Any = SimpleNamespace(maps=datapath.maps, new_policy_map=new_policy_map)
    return InnerMaps(kernel, max_entries=layout.POLICY_INNER.max_entries)


def test_answers_are_remembered(datapath: Datapath, v: int) -> None:
    """Behind the back of the epoch nothing changes: what the other tests rely on is at work."""
    datapath.identity(WIDE[v], PEER_IDENTITY)
    datapath.policy(allow(IN, PEER_IDENTITY))
    assert passes(datapath, v)
    unwatched = KernelMap(datapath.maps["axoneme_ipcache"].fd)
    unwatched.update(base.IpcacheKey.of(WIDE[v]).pack(), layout.IpcacheEntry(OTHER_IDENTITY).pack())
    assert passes(datapath, v)
    datapath.maps["axoneme_epoch"].update(base.number_key(0), b"\xa5" * 8)
    assert not passes(datapath, v)


def test_a_policy_that_is_switched(datapath: Datapath, v: int) -> None:
    datapath.identity(WIDE[v], PEER_IDENTITY)
    datapath.change_policy(allow(IN, PEER_IDENTITY))
    assert passes(datapath, v)
    datapath.change_policy(deny(IN, PEER_IDENTITY))
    assert not passes(datapath, v)
    datapath.change_policy(allow(IN, PEER_IDENTITY))
    assert passes(datapath, v)
    datapath.lock()
    assert knock(datapath, v).drop_reason == NOT_READY


def test_a_new_generation_is_enough(datapath: Datapath, v: int) -> None:
    """The generation may rise before the epoch changes: a switch is in force with either."""
    datapath.identity(WIDE[v], PEER_IDENTITY)
    datapath.policy(allow(IN, PEER_IDENTITY))
    assert passes(datapath, v)
    inner = create_map(layout.POLICY_INNER)
    KernelMap(datapath.maps["axoneme_policy"].fd).set_inner(layout.policy_outer_key(POD_ID), inner)
    inner.close()
    datapath.generation += 1
    datapath.endpoint()
    assert knock(datapath, v).drop_reason == POLICY_DENIED


def test_a_number_that_another_endpoint_had(datapath: Datapath, v: int) -> None:
    """Same number, same generation, another policy."""
    datapath.identity(WIDE[v], PEER_IDENTITY)
    datapath.policy(allow(IN, PEER_IDENTITY))
    assert passes(datapath, v)
    datapath.maps["axoneme_policy"].delete(layout.policy_outer_key(POD_ID))
    assert knock(datapath, v).drop_reason == NOT_READY
    datapath.policy(deny(IN, PEER_IDENTITY))
    assert knock(datapath, v).drop_reason == POLICY_DENY


@pytest.mark.parametrize("port", [80, 443])
def test_ports_and_endpoints_keep_apart(datapath: Datapath, v: int, port: int) -> None:
    datapath.identity(WIDE[v], PEER_IDENTITY)
    datapath.policy(allow(IN, PEER_IDENTITY, one_port(p.TCP, port)))
    for _ in range(2):
        for asked in (80, 443):
            assert knock(datapath, v, asked).passed is (asked == port)
    datapath.policy(deny(IN, 0), endpoint_id=78)
    for endpoint_id, expected in ((78, POLICY_DENY), (POD_ID, None), (78, POLICY_DENY)):
        datapath.endpoint(endpoint_id=endpoint_id)
        assert knock(datapath, v, port).drop_reason == expected


async def test_identities_that_come_and_go_in_place(datapath: Datapath, v: int) -> None:
    datapath.identity(WIDE[v], PEER_IDENTITY)
    made: list[KernelMap] = []
    inners = inner_maps(datapath, made)

    def settled(_endpoint_id: int, _changed: bool) -> None:
        datapath.generation += 1
        datapath.endpoint()

    few, more = allow(IN, 7), allow(IN, 7) | allow(IN, PEER_IDENTITY)
    for entries in (few, more, few, more):
        await inners.switch(lambda: [POD_ID], content_of(entries), settled)
        assert passes(datapath, v) is (entries is more)
    assert len(made) == 1, "all of it was in place"
    inners.remove(POD_ID)
    assert knock(datapath, v).drop_reason == NOT_READY


async def test_a_map_that_the_audit_repairs(datapath: Datapath, v: int) -> None:
    """A repair raises no generation."""
    datapath.identity(WIDE[v], PEER_IDENTITY)
    made: list[KernelMap] = []
    inners = inner_maps(datapath, made)
    await inners.switch(lambda: [POD_ID], content_of(allow(IN, 7)), lambda *_: None)
    assert not passes(datapath, v)
    made[0].update_batch(list(content_of(allow(IN, PEER_IDENTITY)).items()))
    datapath.maps["axoneme_epoch"].update(base.number_key(0), b"\x5a" * 8)
    assert passes(datapath, v)
    assert inners.audit()
    assert knock(datapath, v).drop_reason == POLICY_DENIED
    inners.remove(POD_ID)


def test_prefixes_that_come_and_go(datapath: Datapath, v: int) -> None:
    datapath.policy(allow(IN, PEER_IDENTITY) | allow(IN, OTHER_IDENTITY))
    assert knock(datapath, v).drop_reason == NO_IDENTITY

    def seen() -> int:
        numbers = {int(knock(datapath, v).event(5)["source_identity"]) for _ in range(2)}
        assert len(numbers) == 1
        return numbers.pop()

    datapath.identity(WIDE[v], PEER_IDENTITY)
    assert seen() == PEER_IDENTITY
    datapath.identity(NARROW[v], OTHER_IDENTITY)
    assert seen() == OTHER_IDENTITY, "a longer prefix hides it"
    datapath.identity(ALONE[v], PEER_IDENTITY)
    assert seen() == PEER_IDENTITY, "a single address goes first"
    datapath.identity(NARROW[v], PEER_IDENTITY + 9)
    datapath.identity(NARROW[v], OTHER_IDENTITY)
    forget_prefix(datapath, ALONE[v])
    assert seen() == OTHER_IDENTITY
    forget_prefix(datapath, NARROW[v])
    assert seen() == PEER_IDENTITY
    forget_prefix(datapath, WIDE[v])
    assert knock(datapath, v).drop_reason == NO_IDENTITY
    assert knock(datapath, v).drop_reason == NO_IDENTITY


@pytest.fixture(scope="module")
def both(compiled: None) -> Iterator[tuple[Datapath, Datapath]]:
    """One that remembers and one that does not."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(closing(Datapath())),
            stack.enter_context(closing(Datapath(remembers=0))),
        )


PREFIXES = [*WIDE.values(), *NARROW.values(), *ALONE.values()]
IDENTITIES = st.sampled_from([PEER_IDENTITY, OTHER_IDENTITY])
ACTIONS = st.sampled_from([allow, deny])
POLICIES = st.lists(
    st.tuples(
        ACTIONS,
        st.sampled_from(list(Direction)),
        st.sampled_from([0, PEER_IDENTITY, OTHER_IDENTITY]),
        st.sampled_from([ANY, one_port(p.TCP, 80)]),
    ),
    max_size=4,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("prefix"), st.sampled_from(PREFIXES), IDENTITIES),
        st.tuples(st.just("no prefix"), st.sampled_from(PREFIXES), st.none()),
        st.tuples(st.just("policy"), POLICIES, st.booleans()),
        st.tuples(st.just("lock"), st.none(), st.none()),
        st.tuples(st.just("audit"), st.booleans(), st.none()),
        *[st.tuples(st.just("packet"), st.sampled_from([80, 443]), st.sampled_from(list(Direction)))] * 4,
    ),
    min_size=4,
    max_size=30,
)


def take(datapath: Datapath, step: tuple[str, Any, Any], v: int) -> tuple[Any, ...]:
    """What the step shows."""
    what, one, other = step
    if what == "prefix":
        datapath.identity(one, other)
    elif what == "no prefix":
        forget_prefix(datapath, one)
    elif what == "policy":
        entries: Entries = {}
        for make, direction, identity, ports in one:
            entries |= make(direction, identity, ports)
        (datapath.change_policy if other else datapath.policy)(entries)
    elif what == "lock":
        datapath.lock()
    elif what == "audit":
        datapath.endpoint(flags=layout.ENDPOINT_AUDIT if one else 0)
    else:
        return shown(datapath, v, one, other)
    return ()


def shown(datapath: Datapath, v: int, port: int, direction: Direction) -> tuple[Any, ...]:
    datapath.forget_connections()
    if direction is IN:
        outcome = datapath.receive(p.packet(PEER[v], POD[v], p.TCP, p.tcp(1000, port)))
    else:
        outcome = datapath.send(p.packet(POD[v], PEER[v], p.TCP, p.tcp(1000, port)))
    names = ("event_type", "verdict", "match_type", "drop_reason", "source_identity", "destination_identity")
    return (outcome.passed, *[tuple(int(event[name]) for name in names) for event in outcome.events])


@settings(
    max_examples=scaled(60, 600), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_any_sequence_looks_as_without_memory(
    both: tuple[Datapath, Datapath], v: int, steps: list[tuple[str, Any, Any]]
) -> None:
    for datapath in both:
        datapath.generation = 1
        datapath.reset()
    for step in steps:
        with_memory, without = (take(datapath, step, v) for datapath in both)
        assert with_memory == without, step
