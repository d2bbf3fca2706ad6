"""The ring reader and the pump on the ring that the kernel writes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from axoneme.lib.bpf.errors import BpfError
from shim.flows.feed import FlowFeed, pump
from shim.flows.polledring import PolledRing, Ring, open_ring
from shim.flows.ring import RingReader
from shim.flows.store import FlowStore
from tests.bpf import packets
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.bpf.harness import Datapath

pytestmark = pytest.mark.root

POD, PEER = "10.1.0.5", "10.1.9.9"


def send_to_a_locked_endpoint(datapath: Datapath, count: int) -> None:
    """Each packet is dropped and leaves an event."""
    for number in range(count):
        packet = packets.packet(POD, PEER, packets.TCP, packets.tcp(1000 + number, 80))
        datapath.programs["axoneme_from_ep"].test_run(packet)


def test_the_size_comes_from_the_map(datapath: Datapath) -> None:
    ring = RingReader.from_fd(datapath.maps["axoneme_events"].fd)
    assert ring.size_bytes == 4 << 20
    assert ring.fileno() == datapath.maps["axoneme_events"].fd
    assert len(ring.read()) == 0
    ring.close()


def test_another_map_is_refused(datapath: Datapath) -> None:
    with pytest.raises(OSError):
        RingReader.from_fd(datapath.maps["axoneme_ep"].fd)


def test_bulk_reads_give_each_event_once_in_order(datapath: Datapath) -> None:
    datapath.drain()
    send_to_a_locked_endpoint(datapath, 300)
    records = datapath.ring.read(200)
    assert len(records) == 200
    ports = [*records["source_port"].tolist(), *datapath.ring.read()["source_port"].tolist()]
    assert ports == list(range(1000, 1300))
    assert datapath.ring.pending_bytes() == 0
    assert datapath.ring.unknown_records == 0


async def test_events_of_the_kernel_reach_the_store_through_epoll(datapath: Datapath) -> None:
    feed = FlowFeed(FlowStore(1 << 12), boot_clock_ns=lambda: 0)
    datapath.drain()
    task = asyncio.create_task(pump(feed, datapath.ring, lambda: 0))
    try:
        for burst in (1, 50):
            await asyncio.sleep(0)
            wanted = feed.store.seen + burst
            send_to_a_locked_endpoint(datapath, burst)
            await eventually(lambda wanted=wanted: feed.store.seen == wanted)  # type: ignore[misc]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_the_portable_reader_gives_the_same_events(datapath: Datapath) -> None:
    """Every second burst is read by the other reader, from the same ring."""
    datapath.drain()
    portable = PolledRing(datapath.maps["axoneme_events"].fd)
    try:
        ports: list[int] = []
        readers: list[Ring] = [portable, datapath.ring, portable, datapath.ring]
        for reader in readers:
            send_to_a_locked_endpoint(datapath, 50)
            ports += [*reader.read(20)["source_port"].tolist(), *reader.read()["source_port"].tolist()]
            assert len(reader.read()) == 0
        assert ports == [*range(1000, 1050)] * 4
        assert portable.unknown_records == 0
        assert portable.fileno() == datapath.ring.fileno()
    finally:
        portable.close()


def test_the_reader_is_chosen_by_what_works(datapath: Datapath) -> None:
    fd = datapath.maps["axoneme_events"].fd
    assert isinstance(open_ring(fd), RingReader)

    def refusing(_: int) -> RingReader:
        raise OSError("no ring reader for aarch64: it needs total store order")

    polled = open_ring(fd, bulk=refusing)
    assert isinstance(polled, PolledRing)
    polled.close()


def test_the_portable_reader_refuses_another_map(datapath: Datapath) -> None:
    with pytest.raises(BpfError):
        PolledRing(datapath.maps["axoneme_ep"].fd)
