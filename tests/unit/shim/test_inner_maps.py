"""Changes in place: each packet is judged by the old content or by the new one, at every single step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    Direction,
    MapEntry,
    MapKey,
    PortBlock,
    one_port,
)
from shim.innermaps import Content, InnerMaps, steps_in_place
from shim.maps import layout
from shim.memorydatapath import MemoryDatapath

ROOM = 60
BLOCKS = (
    ANY_PORT,
    PortBlock(6, 0, 0),
    PortBlock(6, 80, 12),
    one_port(6, 80),
    one_port(6, 443),
    PortBlock(17, 0, 0),
)
PORTS = ((6, 80), (6, 81), (6, 443), (17, 53))
PACKETS = [(direction, peer, *port) for direction in Direction for peer in (7, 8, 9) for port in PORTS]
Entries = dict[MapKey, MapEntry]

words = st.sampled_from([0xFEFFFF01, 0xFEFFFFFF, 0xFFFFFF01, 0xFFFFFFFF])
trees = st.dictionaries(
    st.sampled_from(BLOCKS),
    st.builds(MapEntry, action=st.sampled_from([Action.ALLOW, Action.DENY]), precedence=words),
    max_size=4,
)
forests = st.dictionaries(st.tuples(st.sampled_from(list(Direction)), st.sampled_from([0, 7, 8, 9])), trees)


def entries_of(forest: dict[tuple[Direction, int], dict[PortBlock, MapEntry]]) -> Entries:
    return {
        MapKey(direction, identity, block): entry
        for (direction, identity), tree in forest.items()
        for block, entry in tree.items()
    }


def content_of(entries: Entries) -> Content:
    return {layout.policy_key(k): layout.policy_entry(k, entry, cookie=0) for k, entry in entries.items()}


def entries_in(content: Iterable[tuple[bytes, bytes]]) -> Entries:
    found = {}
    for key, raw in content:
        entry = layout.PolicyEntry.unpack(raw)
        found[layout.policy_key_from_bytes(key)] = MapEntry(
            action=Action(entry.action), precedence=entry.precedence
        )
    return found


def verdicts(content: Content) -> list[tuple[MapKey | None, Action | None]]:
    entries = entries_in(content.items())
    return [(one.key, one.action) for one in (lookup(entries, *packet) for packet in PACKETS)]


@given(forests, forests)
def test_every_step_in_place_shows_a_packet_the_old_or_the_new_verdict(
    before: dict[tuple[Direction, int], dict[PortBlock, MapEntry]],
    after: dict[tuple[Direction, int], dict[PortBlock, MapEntry]],
) -> None:
    # Trees that both have are made equal, so that many pairs can go in place.
    after |= {tree: entries for tree, entries in before.items() if tree in after or tree[1] == 0}
    after = {tree: entries for tree, entries in after.items() if tree[1] or tree in before}
    old, new = content_of(entries_of(before)), content_of(entries_of(after))
    steps = steps_in_place(old, new, max_entries=ROOM)
    if steps is None:
        assert old == new
        return
    wanted = list(zip(verdicts(old), verdicts(new), strict=True))
    content = dict(old)
    moves: list[tuple[bytes, bytes | None]] = [*steps.additions, *((key, None) for key in steps.deletions)]
    for key, value in moves:
        if value is None:
            del content[key]
        else:
            assert key not in content
            content[key] = value
        for packet, shown, allowed in zip(PACKETS, verdicts(content), wanted, strict=True):
            assert shown in allowed, packet
    assert content == new


def one(identity: int, block: PortBlock = ANY_PORT, word: int = 0xFEFFFF01) -> Entries:
    return {MapKey(Direction.INGRESS, identity, block): MapEntry(action=Action.ALLOW, precedence=word)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (one(7), one(7, word=0xFFFFFF01)),
        (one(7), one(7) | one(7, one_port(6, 80))),
        (one(7) | one(7, one_port(6, 80)), one(7)),
        (one(7), one(7) | one(0)),
        (one(7) | one(0), one(7)),
        (one(7), one(7)),
    ],
    ids=["value", "part of a tree comes", "part of a tree goes", "any comes", "any goes", "nothing"],
)
def test_everything_else_needs_a_new_map(before: Entries, after: Entries) -> None:
    assert steps_in_place(content_of(before), content_of(after), max_entries=ROOM) is None


def test_old_and_new_together_must_fit() -> None:
    before, after = content_of(one(7)), content_of(one(8))
    assert steps_in_place(before, after, max_entries=1) is None
    steps = steps_in_place(before, after, max_entries=2)
    assert steps is not None
    assert (list(dict(steps.additions)), steps.deletions) == (list(after), list(before))


class Maps:
    """InnerMaps with a kernel of this process."""

    def __init__(self) -> None:
        self.datapath = MemoryDatapath()
        self.inners = InnerMaps(self.datapath, max_entries=ROOM)
        self.changed: list[int] = []

    async def switch(self, members: Sequence[int], entries: Entries) -> None:
        self.changed = []

        def settled(endpoint_id: int, changed: bool) -> None:
            self.changed += [endpoint_id] if changed else []

        await self.inners.switch(lambda: members, content_of(entries), settled)

    def map_of(self, endpoint_id: int) -> MemoryMap:
        found = self.datapath.memory_maps[layout.POLICY.name].inner(layout.policy_outer_key(endpoint_id))
        assert isinstance(found, MemoryMap)
        return found

    def content(self, endpoint_id: int) -> Content:
        return dict(self.map_of(endpoint_id).items())


async def test_own_maps_change_in_place_and_every_endpoint_hears_of_it() -> None:
    maps = Maps()
    await maps.switch([1, 2], one(7))
    first = maps.map_of(1)
    await maps.switch([1, 2, 3], one(7) | one(8))
    assert maps.map_of(1) is maps.map_of(2) is maps.map_of(3) is first
    assert maps.content(3) == content_of(one(7) | one(8))
    assert maps.changed == [1, 2, 3]
    await maps.switch([1, 2, 3], one(7) | one(8))
    assert maps.changed == []


async def test_a_map_that_others_use_is_copied() -> None:
    maps = Maps()
    await maps.switch([1], one(7))
    await maps.switch([2], one(7))
    shared = maps.map_of(1)
    assert maps.map_of(2) is shared
    await maps.switch([2], one(7) | one(8))
    assert maps.map_of(2) is not shared
    assert maps.content(1) == content_of(one(7))
    await maps.switch([1], one(7) | one(8))
    assert maps.map_of(1) is maps.map_of(2), "equal content is one map again"
    assert shared.closed


@pytest.mark.parametrize("failing", ["update", "delete"])
async def test_a_failed_write_in_place_leaves_the_old_content_and_a_new_map_is_made(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = Maps()
    old = one(7) | one(8) | one(8, one_port(6, 80))
    new = one(7) | one(9) | one(9, one_port(6, 80))
    await maps.switch([1], old)
    first = maps.map_of(1)
    original, calls = getattr(first, failing), []

    def fail_once(*args: bytes) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise BpfError(12, failing, "map")
        return original(*args)

    monkeypatch.setattr(first, failing, fail_once)
    epoch = maps.datapath.maps[layout.EPOCH.name].items()
    await maps.switch([1], new)
    assert maps.datapath.maps[layout.EPOCH.name].items() != epoch, "answers of the meantime are void"
    assert dict(first.items()) == content_of(old)
    assert maps.map_of(1) is not first
    assert maps.content(1) == content_of(new)


async def test_a_map_that_cannot_be_put_back_is_left_to_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Maps()
    await maps.switch([1], one(7))
    first = maps.map_of(1)

    def refuse(*_: bytes) -> bool:
        raise BpfError(12, "delete", "map")

    async def no_map() -> MemoryMap:
        raise BpfError(12, "create", "map")

    with monkeypatch.context() as patch:
        patch.setattr(first, "delete", refuse)
        patch.setattr(maps.datapath, "new_policy_map", no_map)
        with pytest.raises(BpfError):
            await maps.switch([1], one(8))
    assert len(maps.content(1)) == 2
    await maps.switch([2], one(7))
    assert maps.map_of(2) is not first, "never shared"
    assert maps.inners.audit() != []
    assert maps.content(1) == content_of(one(7))
    assert maps.inners.audit() == []


@pytest.mark.parametrize("seed", range(20))
async def test_any_sequence_gives_what_was_asked_for(seed: int) -> None:
    rng, maps = random.Random(seed), Maps()
    held: dict[int, Entries] = {}
    words = (0xFEFFFF01, 0xFFFFFF01)
    pool = [one(number, rng.choice(BLOCKS), rng.choice(words)) for number in (0, 0, 7, 7, 8, 8, 9, 9)]
    for _ in range(40):
        members = rng.sample(range(1, 5), rng.randint(1, 3))
        entries: Entries = {}
        for part in rng.sample(pool, rng.randint(0, 5)):
            entries |= part
        await maps.switch(members, entries)
        held |= dict.fromkeys(members, entries)
        if rng.random() < 0.1:
            maps.inners.remove(members[0])
            del held[members[0]]
        for endpoint_id, wanted in held.items():
            assert maps.content(endpoint_id) == content_of(wanted)
        assert maps.inners.audit() == []
