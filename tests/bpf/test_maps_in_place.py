"""Policy maps that change in place, in the kernel: content, and verdicts while they change."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import ANY_PORT, Action, Direction, MapEntry, MapKey, PortBlock, one_port
from shim.innermaps import Content, InnerMaps, steps_in_place
from shim.maps import layout
from tests.bpf import packets as p
from tests.bpf.harness import PEER, PEER_IDENTITY, POD, POD_ID, Datapath
from tests.conftest import scaled

pytestmark = [pytest.mark.root, pytest.mark.slow]

BLOCKS = (
    ANY_PORT,
    PortBlock(p.TCP, 0, 0),
    PortBlock(p.TCP, 64, 10),
    one_port(p.TCP, 80),
    one_port(p.TCP, 443),
)
Entries = dict[MapKey, MapEntry]


def content_of(entries: Entries) -> Content:
    return {layout.policy_key(k): layout.policy_entry(k, one, cookie=0) for k, one in entries.items()}


def random_tree(rng: random.Random, identity: int) -> Entries:
    tree = {}
    for block in rng.sample(BLOCKS, rng.randint(1, 4)):
        action = rng.choice((Action.ALLOW, Action.DENY))
        word = 0xFEFFFF01 if action is Action.ALLOW else 0xFEFFFFFF
        tree[MapKey(Direction.INGRESS, identity, block)] = MapEntry(action=action, precedence=word)
    return tree


@pytest.mark.parametrize("seed", range(scaled(10, 100)))
async def test_any_sequence_gives_what_was_asked_for(datapath: Datapath, seed: int) -> None:
    rng = random.Random(seed)

    async def new_policy_map() -> KernelMap:
        return create_map(layout.POLICY_INNER)

    kernel: Any = SimpleNamespace(maps=datapath.maps, new_policy_map=new_policy_map)
    inners = InnerMaps(kernel, max_entries=layout.POLICY_INNER.max_entries)
    trees = [random_tree(rng, identity) for identity in (0, 7, 8, 9, PEER_IDENTITY)]
    for _ in range(20):
        entries: Entries = {}
        for tree in rng.sample(trees, rng.randint(1, len(trees))):
            entries |= tree
        members = rng.choice(([POD_ID], [POD_ID, 78]))
        await inners.switch(lambda members=members: members, content_of(entries), lambda *_: None)  # type: ignore[misc]
        held = inners.map_of(POD_ID)
        assert held is not None
        assert dict(held.items()) == content_of(entries)
        assert datapath.maps["axoneme_policy"].inner_id(layout.policy_outer_key(POD_ID)) == held.map_id
        assert inners.audit() == []
    for endpoint_id in (POD_ID, 78):
        inners.remove(endpoint_id)


@pytest.mark.parametrize("v", [4, 6])
@pytest.mark.parametrize("seed", range(scaled(10, 100)))
def test_a_packet_meets_the_old_or_the_new_content(datapath: Datapath, seed: int, v: int) -> None:
    rng = random.Random(seed)
    datapath.identity(f"{PEER[v]}/{32 if v == 4 else 128}", PEER_IDENTITY)
    base, tree = random_tree(rng, 0), random_tree(rng, PEER_IDENTITY)
    for old, new in ((base, base | tree), (base | tree, base)):
        steps = steps_in_place(content_of(old), content_of(new), max_entries=100)
        assert steps is not None
        inner = create_map(layout.POLICY_INNER)
        inner.update_batch(list(content_of(old).items()))
        datapath.maps["axoneme_policy"].set_inner(layout.policy_outer_key(POD_ID), inner)
        moves: list[tuple[bytes, bytes | None]] = [*steps.additions]
        moves += [(key, None) for key in steps.deletions]
        for key, value in moves:
            if value is None:
                inner.delete(key)
            else:
                inner.update(key, value)
            for port in (80, 65, 443, 22):
                datapath.forget_connections()
                passed = datapath.receive(p.packet(PEER[v], POD[v], p.TCP, p.tcp(1000, port))).passed
                allowed = {
                    lookup(entries, Direction.INGRESS, PEER_IDENTITY, p.TCP, port).forwarded
                    for entries in (old, new)
                }
                assert passed in allowed, port
        inner.close()
