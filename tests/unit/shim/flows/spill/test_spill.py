"""Flows on disk: what comes back is what was shown, names as of then; damage and bounds."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from shim.flows.answer import Answer
from shim.flows.context import Address, WorkloadInfo
from shim.flows.decode import FlowDecoder, timestamp
from shim.flows.lanes import Source
from shim.flows.record import Records
from shim.flows.spill import blocks
from shim.flows.spill.blocks import Statement, decoded, encoded
from shim.flows.spill.names import statements_of
from shim.flows.spill.options import SpillOptions
from shim.flows.spill.segments import Segments
from shim.flows.spill.spill import FlowSpill
from shim.observer import ObserverService
from tests.unit.shim.flows.scene import API, BOOT_OFFSET_NS, LABELS, Scene, event, events, make_feed
from tests.unit.shim.flows.test_selection import records as random_records

SECOND = 1_000_000_000
LATER = replace(API, pod_name="api-2")


class Renamed(Scene):
    """One address changes hands, and one identity its labels, five seconds after boot."""

    CHANGE_NS = 5 * SECOND

    def workload_at(self, address: Address, time_ns: int | None) -> WorkloadInfo | None:
        found = super().workload_at(address, time_ns)
        return LATER if found is API and (time_ns is None or time_ns >= self.CHANGE_NS) else found

    def identity_labels(self, identity: int, time_ns: int | None) -> tuple[str, ...]:
        new = identity == 9 and (time_ns is None or time_ns >= self.CHANGE_NS)
        return ("reserved:new",) if new else LABELS.get(identity, ())

    def change_times(
        self, identity: int, address: Address | None, endpoint_id: int, after_ns: int
    ) -> list[int]:
        return [self.CHANGE_NS] if after_ns < self.CHANGE_NS else []


class Life:
    """One life of a process that writes its flows into a directory."""

    def __init__(self, directory: Path, max_bytes: int = 1 << 20, **scene: Any) -> None:
        self.feed, _, self.clock = make_feed(scene.pop("capacity", 1024))
        names = scene.pop("names", None) or Scene()
        self.decoder = FlowDecoder(names, boot_offset_ns=lambda: BOOT_OFFSET_NS, uuid_salt=1)
        options = SpillOptions(directory=directory, max_bytes=max_bytes)
        self.spill = FlowSpill(options, self.feed, self.decoder, uuid_salt=2)
        self.sources = [Source(self.feed, self.decoder), self.spill.source]

    async def flows(self, **request: Any) -> list[flow_pb2.Flow]:
        """What a client would get, uuids aside: they are of this life."""
        asked = observer_pb2.GetFlowsRequest(**request)
        answer = Answer(asked, self.sources, self.decoder, self.clock)
        flows = [response.flow async for response in answer.responses()]
        for flow in flows:
            flow.uuid = ""
        return flows

    async def write(self, *rows: Records) -> None:
        self.feed.append(events(*rows))
        await self.spill.flush()


@settings(max_examples=60, deadline=None)
@given(st.lists(random_records, min_size=1, max_size=12))
def test_what_comes_back_is_what_was_shown(tmp_path_factory: Any, rows: list[Records]) -> None:
    directory = tmp_path_factory.mktemp("spill")
    for row in rows:
        row["cookie"], row["policy_generation"] = 7, 3
        row["time_ns"] += np.uint64(4_999 * 1_000_000)  # around the change

    async def run() -> tuple[list[flow_pb2.Flow], list[flow_pb2.Flow]]:
        first = Life(directory, names=Renamed())
        await first.write(*rows)
        shown = await first.flows()
        second = Life(directory)
        await second.spill.restore()
        return shown, await second.flows()

    shown, back = asyncio.run(run())
    assert back == shown


async def test_names_are_those_of_the_time_of_the_flow(tmp_path: Path) -> None:
    first = Life(tmp_path, names=Renamed())
    await first.write(event(time_ns=4 * SECOND), event(time_ns=6 * SECOND, destination_identity=9))
    second = Life(tmp_path)
    await second.spill.restore()
    old, new = await second.flows()
    assert (old.destination.pod_name, new.destination.pod_name) == ("api-1", "api-2")
    assert list(new.destination.labels) == ["reserved:new"]
    found = await second.flows(whitelist=[flow_pb2.FlowFilter(destination_pod=["shop/api-2"])])
    assert found == [new]
    named = await second.flows(whitelist=[flow_pb2.FlowFilter(destination_fqdn=["*.example.com"])])
    assert named == []


async def test_both_lives_are_one_history(tmp_path: Path) -> None:
    first = Life(tmp_path)
    await first.write(*[event(time_ns=number * SECOND, source_port=number) for number in (1, 2, 3)])
    second = Life(tmp_path)
    await second.spill.restore()
    second.feed.append(events(*[event(time_ns=number * SECOND, source_port=number) for number in (4, 5)]))

    async def ports(**request: Any) -> list[int]:
        return [flow.l4.TCP.source_port for flow in await second.flows(**request)]

    assert await ports() == [1, 2, 3, 4, 5]
    assert await ports(number=3) == [3, 4, 5]
    assert await ports(number=2, first=True) == [1, 2]
    at = [timestamp(BOOT_OFFSET_NS + number * SECOND) for number in range(6)]
    assert await ports(since=at[2], until=at[4]) == [2, 3, 4]


async def test_followers_hear_only_of_this_life(tmp_path: Path) -> None:
    await Life(tmp_path).write(event(source_port=1))
    second = Life(tmp_path)
    asked = observer_pb2.GetFlowsRequest(follow=True)
    stream = Answer(asked, second.sources, second.decoder, second.clock).responses()
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await second.spill.restore()
    second.feed.append(event(source_port=2))
    assert (await waiting).flow.l4.TCP.source_port == 2


async def test_a_reboot_between_lives(tmp_path: Path) -> None:
    """The clock of records starts again; flows of before lie before the boot."""
    await Life(tmp_path).write(event(time_ns=3 * SECOND, source_port=1))
    second = Life(tmp_path)
    second.decoder = FlowDecoder(Scene(), boot_offset_ns=lambda: BOOT_OFFSET_NS + 60 * SECOND, uuid_salt=1)
    second.sources[0] = Source(second.feed, second.decoder)
    await second.spill.restore()
    second.feed.append(event(time_ns=SECOND, source_port=2))
    flows = await second.flows()
    assert [flow.l4.TCP.source_port for flow in flows] == [1, 2]
    assert [flow.time.ToNanoseconds() - BOOT_OFFSET_NS for flow in flows] == [3 * SECOND, 61 * SECOND]
    since = timestamp(BOOT_OFFSET_NS + 2 * SECOND)
    assert [flow.l4.TCP.source_port for flow in await second.flows(since=since, number=9)] == [1, 2]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.data())
def test_damage_loses_only_what_stands_behind_it(count: int, data: st.DataObject) -> None:
    one = [encoded([Statement("l", 9, 5, ["a"])], event(source_port=number)) for number in range(count)]
    whole = b"".join(one)
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = data.draw(
        st.sampled_from([whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]])
    )
    back = [int(block.records["source_port"][0]) for block in decoded(broken)]
    ends = np.cumsum([len(block) for block in one])
    assert back == list(range(int((ends <= at).sum())))


def test_what_another_version_wrote_is_left_out() -> None:
    packed = zlib.compress(b"\xff\0\0\0nonsense")
    head = blocks._HEAD.pack(blocks.MAGIC, len(packed), zlib.crc32(packed))
    assert list(decoded(head + packed)) == []
    assert list(decoded(b"other" * 10)) == []


async def test_statements_that_mean_nothing_are_left_out(tmp_path: Path) -> None:
    segments = Segments(tmp_path, 1 << 20)
    segments.append(encoded([Statement("?", 1, 1, [1])], event()))
    segments.append(encoded([Statement("a", "xyz", 1, [1])], event()))
    segments.append(encoded([], event(source_port=3)))
    life = Life(tmp_path)
    await life.spill.restore()
    assert [flow.l4.TCP.source_port for flow in await life.flows()] == [3]


def test_bytes_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    segments = Segments(tmp_path / "new", 8_000)
    for number in range(200):
        segments.append(encoded([], event(source_port=number)))
    sizes = [path.stat().st_size for path in (tmp_path / "new").iterdir()]
    assert sum(sizes) <= 8_000
    assert len(sizes) > 2
    ports = [int(block.records["source_port"][0]) for block in Segments(tmp_path / "new", 8_000).read()]
    assert ports == list(range(ports[0], 200))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}


def test_each_life_has_a_file_of_its_own(tmp_path: Path) -> None:
    Segments(tmp_path, 1 << 20).append(encoded([], event(source_port=1))[:-3])  # cut off by a crash
    Segments(tmp_path, 1 << 20).append(encoded([], event(source_port=2)))
    ports = [int(block.records["source_port"][0]) for block in Segments(tmp_path, 1 << 20).read()]
    assert ports == [2]


async def test_what_was_overwritten_before_it_was_written_is_counted(tmp_path: Path) -> None:
    life = Life(tmp_path, capacity=8)
    await life.write(*[event(source_port=number) for number in range(20)])
    assert life.spill.skipped == 12
    back = Life(tmp_path)
    await back.spill.restore()
    assert [flow.l4.TCP.source_port for flow in await back.flows()] == list(range(12, 20))


async def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    life = Life(blocked / "below")
    await life.write(event(), event())
    assert life.spill.skipped == 2
    assert len(await life.flows()) == 2


async def test_the_rest_is_written_at_the_end(tmp_path: Path) -> None:
    life = Life(tmp_path)
    running = asyncio.ensure_future(life.spill.run())
    life.feed.append(event(source_port=5))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    back = Life(tmp_path)
    await back.spill.restore()
    assert [flow.l4.TCP.source_port for flow in await back.flows()] == [5]


def test_nothing_is_stated_of_no_records() -> None:
    assert statements_of(event()[:0], Scene(), 0) == []


async def test_status_and_namespaces_count_earlier_lives(tmp_path: Path) -> None:
    await Life(tmp_path / "flows").write(event(time_ns=5 * SECOND), event(time_ns=6 * SECOND))
    life = Life(tmp_path / "flows")
    await life.spill.restore()
    service = ObserverService(
        life.feed,
        life.decoder,
        version="0.1.0",
        boot_clock_ns=life.clock,
        started_ns=0,
        earlier=life.spill.source,
    )
    address = f"unix://{tmp_path}/observer.sock"
    async with (
        grpcserver.serving([grpcserver.Listener(address)], service.add_to, drain_seconds=0.0),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: Any = observer_pb2_grpc.ObserverStub(channel)
        status = await stub.ServerStatus(observer_pb2.ServerStatusRequest())
        assert (status.num_flows, status.seen_flows, status.flows_rate) == (2, 2, 0)
        asked = observer_pb2.GetNamespacesRequest()
        assert [one.namespace for one in (await stub.GetNamespaces(asked)).namespaces] == ["shop"]
        life.clock.now_ns += 3_700 * SECOND
        assert list((await stub.GetNamespaces(asked)).namespaces) == []
