"""One suite over the memory store and a real etcd: what one does, the other does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from axoneme.lib.errors import RevisionCompacted, StoreConflict, StoreUnavailable
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.follow import Snapshot, Step, Synced, follow
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.kvstore.port import (
    MAX_OPERATIONS,
    PAGE_SIZE,
    Delete,
    DeleteOp,
    GetOp,
    KeyRange,
    LeaseLost,
    Put,
    PutOp,
    StoreRestored,
    absent,
    empty,
    holds,
    not_empty,
    settled,
    unchanged,
)
from tests.etcdserver import EtcdServer, etcd_server, running_etcd  # noqa: F401
from tests.waiting import eventually


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with running_etcd(unix_socket=True) as server:
        async with EtcdStore.connect(server.endpoints, None) as opened:
            yield opened


class Followed:
    """A running `follow`, applied to a dictionary."""

    def __init__(self, store: Any, *prefixes: str) -> None:
        self.rows: dict[str, bytes] = {}
        self.steps: list[Step] = []
        self.revision = 0
        self._steps = follow(store, prefixes, rng=random.Random(1))
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async for step in self._steps:
            self.steps.append(step)
            match step:
                case Snapshot(rows, _):
                    self.rows = {row.key: row.value for row in rows}
                case Put(row):
                    self.rows[row.key] = row.value
                case Delete(key, _):
                    del self.rows[key]
                case Synced(revision):
                    self.revision = revision

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._steps.aclose()


@contextlib.asynccontextmanager
async def followed(store: Any, *prefixes: str) -> AsyncIterator[Followed]:
    running = Followed(store, *prefixes)
    try:
        await eventually(lambda: running.revision)
        yield running
    finally:
        await running.close()


async def test_create_swap_and_delete_are_conditional(store: Any) -> None:
    made = await store.create("a/x", b"1")
    with pytest.raises(StoreConflict):
        await store.create("a/x", b"2")
    row = await store.get("a/x")
    assert (row.value, row.mod_revision, row.create_revision, row.version) == (b"1", made, made, 1)
    swapped = await store.swap("a/x", b"2", made)
    assert swapped == made + 1
    with pytest.raises(StoreConflict):
        await store.swap("a/x", b"3", made)
    with pytest.raises(StoreConflict):
        await store.delete("a/x", made)
    await store.delete("a/x", swapped)
    assert await store.get("a/x") is None
    before = await store.revision()
    await store.delete("a/x")
    assert await store.revision() == before


async def test_a_list_is_of_one_revision_and_knows_its_prefix(store: Any) -> None:
    for key in ("a/1", "a/2", "ab/3", "a0"):
        await store.put(key, key.encode())
    rows, revision = await store.list("a/")
    assert [row.key for row in rows] == ["a/1", "a/2"]
    assert revision == await store.revision()
    await store.delete("a/1")
    await store.put("a/2", b"new")
    old, same = await store.list("a/", revision=revision)
    assert same == revision
    assert [(row.key, row.value) for row in old] == [("a/1", b"a/1"), ("a/2", b"a/2")]
    keys, _ = await store.list("a/", keys_only=True)
    assert [(row.key, row.value) for row in keys] == [("a/2", b"")]
    with pytest.raises(ValueError, match="must end"):
        await store.list("a")


async def test_lists_longer_than_a_page_are_complete(store: Any) -> None:
    wanted = {f"many/{number:06d}" for number in range(2 * PAGE_SIZE + 1)}
    ordered = sorted(wanted)
    for start in range(0, len(ordered), 100):
        await store.transaction((), [PutOp(key, b"v") for key in ordered[start : start + 100]])
    rows, _ = await store.list("many/")
    assert [row.key for row in rows] == ordered


async def test_transactions_take_one_branch(store: Any) -> None:
    await store.put("t/a", b"1")
    outcome = await store.transaction(
        [holds("t/a", b"1"), absent("t/b")], [PutOp("t/b", b"2"), GetOp("t/a")], [DeleteOp("t/a")]
    )
    assert outcome.succeeded
    assert [row.value for row in outcome.rows[1]] == [b"1"]
    outcome = await store.transaction(
        [absent("t/b")], [PutOp("t/c", b"")], [GetOp(KeyRange.prefix("t/"), 1), GetOp(KeyRange.prefix("t/"))]
    )
    assert not outcome.succeeded
    assert [len(rows) for rows in outcome.rows] == [1, 2]
    assert outcome.revision == await store.revision()


async def test_conditions_on_ranges(store: Any) -> None:
    async def true(*conditions: Any) -> bool:
        return bool((await store.transaction(conditions, [])).succeeded)

    assert await true(empty("r/"))
    assert not await true(not_empty("r/"))
    revision = await store.put("r/a", b"1")
    assert not await true(empty("r/"))
    assert await true(not_empty("r/"))
    assert await true(settled("r/", revision))
    newer = await store.put("r/b", b"1")
    assert not await true(settled("r/", revision))
    assert await true(settled("r/", newer))
    assert await true(unchanged("r/a", revision), unchanged("r/z", 0))
    assert not await true(holds("r/z", b""))


async def test_sizes_that_a_server_refuses_are_refused_before(store: Any) -> None:
    with pytest.raises(ValueError, match="at most"):
        await store.transaction((), [PutOp(f"x/{n}", b"") for n in range(MAX_OPERATIONS + 1)])
    with pytest.raises(ValueError, match="twice"):
        await store.transaction((), [PutOp("x/1", b""), PutOp("x/1", b"")])
    outcome = await store.transaction((), [PutOp(f"x/{n}", b"") for n in range(MAX_OPERATIONS)])
    assert outcome.succeeded


async def test_keys_go_with_their_lease(store: Any) -> None:
    lease = await store.grant(60)
    await store.put("l/a", b"", lease=lease)
    await store.create("l/b", b"", lease=lease)
    await store.put("l/c", b"")
    assert await store.keep_alive(lease) == 60
    state = await store.lease_state(lease, keys=True)
    assert state.keys == ("l/a", "l/b")
    await store.revoke(lease)
    rows, _ = await store.list("l/")
    assert [row.key for row in rows] == ["l/c"]
    await store.revoke(lease)
    assert await store.lease_state(lease) is None
    for lost in (store.keep_alive(lease), store.put("l/a", b"", lease=lease)):
        with pytest.raises(LeaseLost):
            await lost


@pytest.mark.slow
async def test_a_lease_that_nobody_keeps_expires(store: Any) -> None:
    lease = await store.grant(1)
    await store.put("l/a", b"", lease=lease)
    async with followed(store, "l/") as seen:
        assert "l/a" in seen.rows
        await eventually(lambda: "l/a" not in seen.rows, seconds=15)
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)


async def test_follow_tells_everything_in_order(store: Any) -> None:
    await store.put("f/1", b"a")
    async with followed(store, "f/", "h/") as seen:
        await store.put("f/2", b"b")
        await store.put("g/between", b"")
        await store.put("h/1", b"c")
        await store.delete("f/1")
        last = await store.put("f/2", b"d")
        await eventually(lambda: seen.revision >= last)
        assert seen.rows == {"f/2": b"d", "h/1": b"c"}
        told = [step.key for step in seen.steps if isinstance(step, Put | Delete)]
        assert told == ["f/2", "h/1", "f/1", "f/2"]


async def test_a_watch_of_a_forgotten_revision_says_so(store: Any) -> None:
    first = await store.put("c/1", b"")
    for _ in range(5):
        last = await store.put("c/1", b"")
    await store.compact(last)
    with pytest.raises(RevisionCompacted):
        await anext(store.watch("c/", first))
    with pytest.raises(RevisionCompacted):
        await store.list("c/", revision=first)
    batch = await anext(store.watch("c/", last))
    assert batch.revision == last


async def test_a_watch_beyond_the_store_finds_the_restore(store: Any) -> None:
    revision = await store.put("c/1", b"")
    with pytest.raises(StoreRestored):
        await asyncio.wait_for(anext(store.watch("c/", revision + 50)), 10)


async def test_a_random_history_ends_equal_in_both(store: Any) -> None:
    twin, rng = MemoryStore(), random.Random(7)
    for _ in range(150):
        key, value = f"q/{rng.randrange(12)}", bytes([rng.randrange(4)])
        condition = rng.choice(
            [absent(key), holds(key, value), empty("q/"), not_empty("q/"), unchanged(key, 0)]
        )
        success = [rng.choice([PutOp(key, value), DeleteOp(key), GetOp(KeyRange.prefix("q/"))])]
        failure = [rng.choice([PutOp(key, b"f"), DeleteOp(KeyRange.prefix("q/")), GetOp(key)])]
        one = await store.transaction([condition], success, failure)
        other = await twin.transaction([condition], success, failure)
        assert (one.succeeded, one.rows, one.revision) == (other.succeeded, other.rows, other.revision)
    assert await store.list("q/") == await twin.list("q/")


@pytest.mark.etcd
async def test_follow_survives_restarts_of_etcd(etcd_server: EtcdServer) -> None:  # noqa: F811
    async with (
        EtcdStore.connect(etcd_server.endpoints, None) as store,
        followed(store, "f/") as seen,
    ):
        for number in range(3):
            await store.put(f"f/{number}", b"")
            etcd_server.stop(kill=bool(number % 2))
            with pytest.raises(StoreUnavailable):
                await store.put("f/x", b"")
            etcd_server.start()
            await eventually(lambda: _answers(store))
        await store.put("f/last", b"")
        await eventually(lambda: set(seen.rows) == {"f/0", "f/1", "f/2", "f/last"}, seconds=15)
        assert sum(isinstance(step, Snapshot) for step in seen.steps) == 1


async def test_follow_tells_the_difference_after_a_compaction(store: Any) -> None:
    await store.put("f/gone", b"")
    await store.put("f/kept", b"")
    async with contextlib.aclosing(follow(store, "f/", rng=random.Random(1))) as steps:
        assert isinstance(await anext(steps), Snapshot)
        await anext(steps)  # the watch starts with the next step
        await store.delete("f/gone")
        last = await store.put("f/new", b"")
        await store.compact(last)
        told = [await asyncio.wait_for(anext(steps), 10) for _ in range(3)]
        assert [(type(step).__name__, getattr(step, "key", "")) for step in told] == [
            ("Put", "f/new"),
            ("Delete", "f/gone"),
            ("Synced", ""),
        ]


@pytest.mark.etcd
async def test_follow_finds_a_restored_backup(
    etcd_server: EtcdServer,  # noqa: F811
    tmp_path: Any,
) -> None:
    async with EtcdStore.connect(etcd_server.endpoints, None) as store:
        await store.put("f/old", b"")
        etcd_server.stop()
        etcd_server.backup(tmp_path / "backup")
        etcd_server.start()
        await eventually(lambda: _answers(store))
        async with followed(store, "f/") as seen:
            for number in range(30):
                await store.put(f"f/{number}", b"")
            await eventually(lambda: len(seen.rows) == 31)
            etcd_server.stop()
            etcd_server.restore(tmp_path / "backup")
            etcd_server.start()
            await eventually(lambda: set(seen.rows) == {"f/old"}, seconds=20)
            assert any(isinstance(step, Snapshot) and step.restored for step in seen.steps)


@pytest.mark.etcd
async def test_tls_and_a_dead_first_endpoint(tls_files: Any) -> None:
    with running_etcd(tls=tls_files("svc/etcd")) as server:
        endpoints = ["127.0.0.1:1", server.endpoint]
        for seed in range(3):
            async with EtcdStore.connect(
                endpoints, tls_files("svc/identity"), server_name="etcd.east.mesh", rng=random.Random(seed)
            ) as store:
                assert await store.revision() >= 1
                await eventually(lambda: _writes(store))


async def _answers(store: Any) -> bool:
    try:
        await store.revision()
    except StoreUnavailable:
        return False
    return True


async def _writes(store: Any) -> bool:
    try:
        await store.put("w/1", b"")
    except StoreUnavailable:
        return False
    return True
