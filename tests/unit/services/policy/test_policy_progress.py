"""What nodes hold: the progress of a replica, its key in the store, the view of all, a policy's standing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import StoreUnavailable
from axoneme.lib.intent import Failure
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.records.progress import (
    EVERY_SUBJECT,
    MAX_FAILURES,
    MAX_NAMED,
    MAX_REASON,
    NodeProgress,
    decode,
    encode,
    merged,
)
from services.policy.records.reporter import INTERVAL_SECONDS, LEASE_SECONDS, ProgressReporter
from services.policy.records.standing import NodeStanding
from services.policy.status import standing

_names = st.text(min_size=1, max_size=8)
_progress = st.dictionaries(
    _names,
    st.builds(
        NodeProgress,
        st.integers(0, 2**40),
        st.dictionaries(_names, st.text(max_size=20), max_size=MAX_FAILURES),
    ),
    max_size=8,
)


@given(progress=_progress)
def test_progress_survives_the_store(progress: Mapping[str, NodeProgress]) -> None:
    """Whatever nodes and subjects are called."""
    assert decode(encode(progress)) == progress


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"nodes": [], "failures": {}}',
        b'{"nodes": {"x": ["a"]}, "failures": {}}',
        b'{"nodes": {"1": ["a"]}, "failures": {"a": []}}',
        b'{"nodes": {"1": 3}, "failures": {}}',
        b'{"nodes": {"' + b"9" * 5000 + b'": ["a"]}, "failures": {}}',
    ],
)
def test_what_is_no_progress_is_refused(value: bytes) -> None:
    """With ValueError, never another error: the feed of the service must go on."""
    with pytest.raises(ValueError, match=r".*"):
        decode(value)


def test_a_flood_of_failures_never_looks_like_success() -> None:
    """Reasons and lists are cut; a node whose list was cut is in doubt for every subject."""
    many = {f"subject:{index:04}": "r" * 1000 for index in range(500)}
    found = decode(encode({f"node{index:03}": NodeProgress(7, many) for index in range(1000)}))
    assert len(encode(found)) < 1_000_000
    assert len(found) == 1000
    for one in found.values():
        assert one.failure_of(["subject:0499"]) is not None
        assert len(one.failures) <= MAX_FAILURES + 1
        assert all(len(reason) <= MAX_REASON for reason in one.failures.values())
    assert sum(len(one.failures) - (EVERY_SUBJECT in one.failures) for one in found.values()) <= MAX_NAMED
    assert NodeProgress(1).failure_of(["a"]) is None
    assert NodeProgress(1, {"a": ""}).failure_of(["a"]) == ""
    assert NodeProgress(1, {"a": "x"}).failure_of(["b"]) is None


def test_the_newest_word_on_a_node_counts() -> None:
    """A node that moved from a replica to another is in both for a moment."""
    old, new = NodeProgress(3, {"a": "x"}), NodeProgress(5)
    assert merged([{"n": old}, {"n": new, "m": old}]) == {"n": new, "m": old}
    assert merged([{"n": new}, {"n": old}]) == {"n": new}
    own = NodeProgress(3)
    assert merged([{"n": old}, {"n": own}]) == {"n": own}, "of equal revisions the replica's own word counts"
    assert merged([]) == {}


NODES = {1: frozenset({"n1", "n2"}), 2: frozenset({"n2", "n3"}), 3: frozenset[str]()}


@pytest.mark.parametrize(
    ("progress", "pending"),
    [
        ({}, (("n1", "not connected"), ("n2", "not connected"), ("n3", "not connected"))),
        ({"n1": NodeProgress(9), "n2": NodeProgress(10), "n3": NodeProgress(11)}, (("n1", ""),)),
        (
            {name: NodeProgress(10, {subject_key(2): "full"}) for name in ("n1", "n2", "n3")},
            (("n2", "full"), ("n3", "full")),
        ),
        (
            {name: NodeProgress(10, {EVERY_SUBJECT: "?"}) for name in ("n1", "n2", "n3")},
            (("n1", "?"), ("n2", "?"), ("n3", "?")),
        ),
        ({name: NodeProgress(10, {subject_key(9): "full"}) for name in ("n1", "n2", "n3")}, ()),
        (
            {"n1": NodeProgress(10, {subject_key(1): ""}), "n2": NodeProgress(10), "n3": NodeProgress(10)},
            (("n1", "failed without a reason"),),
        ),
    ],
)
def test_standing(progress: dict[str, NodeProgress], pending: tuple[tuple[str, str], ...]) -> None:
    """Expected are nodes where a subject lives; a failure of one of its subjects counts whatever its age."""
    expected, found = standing([1, 2, 3], [], 10, nodes_of=lambda one: NODES[one], progress=progress)
    assert (expected, found) == (3, pending)


def test_standing_of_hosts() -> None:
    """A host is expected on its own node; a node with subjects of both kinds counts once."""
    progress = {"n1": NodeProgress(5, {host_key("n1"): "no"}), "n4": NodeProgress(5)}
    found = standing([1], ["n1", "n4"], 5, nodes_of=lambda one: NODES[one], progress=progress)
    assert found == (3, (("n1", "no"), ("n2", "not connected")))


class Table:
    """As much of a stream host as standing looks at."""

    def __init__(self) -> None:
        self.table = self
        self.revision = 1
        self.nodes: dict[str, tuple[int, dict[str, Failure]]] = {}

    def standing(self) -> dict[str, tuple[int, dict[str, Failure]]]:
        """By node."""
        return self.nodes


def test_revisions_of_the_table_become_those_of_content() -> None:
    """A change that moves no mapstate is in force where all before it is; a restore starts over."""
    host = Table()
    state = NodeStanding(host, "me")  # type: ignore[arg-type]
    state.content_revision = 100
    state.published()
    host.nodes["n"] = (1, {})
    assert state.own() == {"n": NodeProgress(100)}
    state.content_revision = 120
    state.published()  # nothing changed in the table
    assert state.own()["n"].revision == 120
    host.revision, state.content_revision = 2, 130
    state.published()
    assert state.own()["n"].revision == 120
    host.nodes["n"] = (2, {"subject:1": Failure("A", "MAP_FULL", "")})
    assert state.own() == {"n": NodeProgress(130, {"subject:1": "MAP_FULL"})}
    host.nodes["n"] = (0, {})
    assert state.own()["n"].revision == 0
    state.put(f"{layout.POLICY_PROGRESS}other", encode({"m": NodeProgress(130), "n": NodeProgress(1)}))
    state.put(f"{layout.POLICY_PROGRESS}me", encode({"x": NodeProgress(130)}))
    assert state.all() == {"m": NodeProgress(130), "n": NodeProgress(1)}
    state.put(f"{layout.POLICY_PROGRESS}other", b"x")
    assert set(state.all()) == {"n"}
    state.put(f"{layout.POLICY_PROGRESS}other", encode({"m": NodeProgress(130)}))
    state.remove(f"{layout.POLICY_PROGRESS}other")
    assert set(state.all()) == {"n"}
    state.put(f"{layout.POLICY_PROGRESS}other", encode({"m": NodeProgress(130)}))
    state.start_over(restored=False)
    assert (set(state.all()), state.content_revision) == ({"n"}, 130)
    state.start_over(restored=True)
    assert (state.content_revision, state.own()["n"].revision) == (0, 0)


class Flaky(MemoryStore):
    """A store that counts, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0
        self.renewals = 0
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("down")

    async def grant(self, ttl_seconds: int) -> int:
        self._check()
        return await super().grant(ttl_seconds)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        self._check()
        self.puts += 1
        return await super().put(key, value, lease=lease)

    async def keep_alive(self, lease: int) -> int:
        self._check()
        self.renewals += 1
        return await super().keep_alive(lease)


class Steps:
    """A sleep that hands control to the test."""

    def __init__(self) -> None:
        self.slept = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        assert seconds == INTERVAL_SECONDS
        self.slept.set()
        await self.go.wait()
        self.go.clear()

    async def next(self) -> None:
        """Let the reporter take one more step."""
        await self.slept.wait()
        self.slept.clear()
        self.go.set()
        await self.slept.wait()


async def test_the_reporter_writes_changes_and_renews_in_time() -> None:
    """One write for each change, a renewal three times a lease; the key goes with the lease."""
    store, progress = Flaky(), {"n": NodeProgress(1)}
    reporter = ProgressReporter(store, replica="r", progress=lambda: progress)
    steps = int(LEASE_SECONDS / INTERVAL_SECONDS)
    for _ in range(steps):
        await reporter.step()
    assert store.puts == 1
    assert store.renewals == 3
    progress["n"] = NodeProgress(2)
    await reporter.step()
    row = await store.get(reporter.key)
    assert row is not None
    assert decode(row.value) == progress
    await store.revoke(row.lease)
    assert await store.get(reporter.key) is None


async def test_the_reporter_outlives_the_store_and_its_lease() -> None:
    """Unreachable: it tries again under the same lease. Lease lost: it takes another and writes again."""
    store, steps = Flaky(), Steps()
    reporter = ProgressReporter(store, replica="r", progress=lambda: {"n": NodeProgress(1)}, sleep=steps)
    store.down = True
    task = asyncio.ensure_future(reporter.run())
    async with asyncio.timeout(10):
        await steps.next()
        store.down = False
        await steps.next()
        first = await store.get(reporter.key)
        assert first is not None
        store.down = True
        for _ in range(10):
            await steps.next()  # a renewal fails
        store.down = False
        await steps.next()
        second = await store.get(reporter.key)
        assert second is not None
        assert second.lease == first.lease
        await store.revoke(first.lease)
        for _ in range(12):
            await steps.next()
        third = await store.get(reporter.key)
        assert third is not None
        assert third.lease != first.lease
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await store.get(reporter.key) is None


async def test_two_replicas_see_each_other() -> None:
    """Each reports under its own key; either has the whole picture."""
    store = MemoryStore()
    hosts = {name: Table() for name in ("a", "b")}
    states = {name: NodeStanding(host, name) for name, host in hosts.items()}  # type: ignore[arg-type]
    for name, state in states.items():
        state.content_revision = 10
        state.published()
        hosts[name].nodes[f"node-{name}"] = (1, {})
        await ProgressReporter(store, replica=name, progress=state.own).step()
    rows, _ = await store.list(layout.POLICY_PROGRESS)
    for state in states.values():
        for row in rows:
            state.put(row.key, row.value)
        assert state.all() == {"node-a": NodeProgress(10), "node-b": NodeProgress(10)}


async def test_a_replica_that_cannot_revoke_leaves_in_peace() -> None:
    """The lease ends by itself."""

    class Gone(Flaky):
        async def revoke(self, lease: int) -> None:
            raise StoreUnavailable("gone")

    steps = Steps()
    reporter = ProgressReporter(Gone(), replica="r", progress=dict, sleep=steps)
    task = asyncio.ensure_future(reporter.run())
    await steps.slept.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cluster_in_step_takes_one_list_of_names() -> None:
    """A thousand nodes at one revision need no revision each."""
    value = encode({f"node{index}": NodeProgress(123_456_789) for index in range(1000)})
    assert len(value) < 12_000
    assert len(json.loads(value)["nodes"]) == 1
