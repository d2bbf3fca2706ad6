"""The writer's queue: bounded, never waiting, and exact about what is missing."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from shim.hubble.export.rotation import RotatedFile
from shim.hubble.export.writer import EventWriter, Make
from tests.waiting import eventually_sync

NOW_NS = 1_772_359_200_000_000_000


def event(number: int) -> Make:
    return lambda: observer_pb2.ExportEvent(flow=flow_pb2.Flow(uuid=str(number)))


class StuckFile(RotatedFile):
    """A file whose writing waits, or fails, as the test says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, max_bytes=1 << 20, max_backups=1, compress=False, clock_ns=lambda: NOW_NS)
        self.open_gate = threading.Event()
        self.entered = threading.Event()
        self.error: OSError | None = None
        self.most = 1 << 20

    def write(self, lines: Sequence[bytes]) -> int:
        self.entered.set()
        assert self.open_gate.wait(10)
        if self.error is not None:
            raise self.error
        return super().write(lines[: self.most])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def lost_in(lines: list[dict[str, Any]]) -> int:
    return sum(int(line["lost_events"]["num_events_lost"]) for line in lines if "lost_events" in line)


def test_a_full_queue_counts_and_tells(tmp_path: Path) -> None:
    file = StuckFile(tmp_path / "events.log")
    writer = EventWriter(file, node_name="east/node1", capacity=4, clock_ns=lambda: NOW_NS)
    assert writer.put(event(0))
    assert file.entered.wait(10)  # the thread took one and waits; four more fit
    taken = [writer.put(event(number)) for number in range(1, 10)]
    assert taken == [True] * 4 + [False] * 5
    file.open_gate.set()
    eventually_sync(lambda: writer.written == 5)
    assert writer.put(event(99))
    writer.stop()
    lines = lines_of(tmp_path / "events.log")
    assert [line["flow"]["uuid"] for line in lines if "flow" in line] == ["0", "1", "2", "3", "4", "99"]
    assert lines[5] == {
        "lost_events": {
            "source": "OBSERVER_EVENTS_QUEUE",
            "num_events_lost": "5",
            "first": "2026-03-01T10:00:00Z",
            "last": "2026-03-01T10:00:00Z",
        },
        "node_name": "east/node1",
        "time": "2026-03-01T10:00:00Z",
    }
    assert (writer.written, writer.lost) == (6, 5)


def test_losses_at_the_end_are_told(tmp_path: Path) -> None:
    file = StuckFile(tmp_path / "events.log")
    writer = EventWriter(file, node_name="n", capacity=1, clock_ns=lambda: NOW_NS)
    writer.put(event(0))
    assert file.entered.wait(10)
    assert [writer.put(event(1)), writer.put(event(2), 7)] == [True, False]
    file.open_gate.set()
    writer.stop()
    assert lost_in(lines_of(tmp_path / "events.log")) == 7
    assert not writer.put(event(3))
    assert writer.lost == 8


def test_what_the_disk_refuses_is_told_when_it_works_again(tmp_path: Path) -> None:
    file = StuckFile(tmp_path / "events.log")
    file.open_gate.set()
    file.error = OSError(errno.ENOSPC, "No space left on device")
    writer = EventWriter(file, node_name="n", clock_ns=lambda: NOW_NS, retry_seconds=0.001)
    for number in range(300):
        writer.put(event(number))
    eventually_sync(lambda: writer.lost == 300)
    assert writer.problem == "No space left on device"
    file.error, file.most = None, 2
    for number in range(5):
        writer.put(event(number))
    eventually_sync(lambda: writer.written + writer.lost == 305)
    file.most = 1 << 20
    writer.put(event(1000))
    writer.stop()
    lines = lines_of(tmp_path / "events.log")
    assert lost_in(lines) == writer.lost
    assert sum("flow" in line for line in lines) == writer.written
    assert writer.written + writer.lost == 306
    assert writer.problem == ""


def test_an_event_that_is_no_json_is_lost_and_the_next_is_written(tmp_path: Path) -> None:
    def broken() -> observer_pb2.ExportEvent:
        raise ValueError("not to be told")

    file = StuckFile(tmp_path / "events.log")
    file.open_gate.set()
    writer = EventWriter(file, node_name="n", clock_ns=lambda: NOW_NS, retry_seconds=0.001)
    writer.put(broken)
    eventually_sync(lambda: writer.lost == 1)
    writer.put(event(1))
    writer.stop()
    assert [sorted(line)[0] for line in lines_of(tmp_path / "events.log")] == ["lost_events", "flow"]
