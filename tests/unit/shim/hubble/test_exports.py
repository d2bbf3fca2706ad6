"""Exports of a running node: real files, changed while they are written."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import Unsupported
from axoneme.lib.tasks import TaskScope
from shim.hubble.export.collect import ExportCollector
from shim.hubble.export.running import Exports
from shim.hubble.export.settings import ExportSettings
from shim.hubble.export.writer import BATCH, CAPACITY
from shim.observer import ObserverService
from tests.unit.shim.flows.lookupscene import LookupScene, answer
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, event
from tests.waiting import FakeClock, eventually


class Node:
    """An observer over the small node, and its exports."""

    def __init__(self, directory: Path, *, capacity: int = 4096, fixed: ExportSettings | None = None) -> None:
        self.directory, self.list = directory, directory / "list.yaml"
        self.scene = LookupScene(capacity=capacity)
        self.observer = ObserverService(
            self.scene.feed,
            self.scene.decoder,
            version="0.1.0",
            boot_clock_ns=self.scene.clock,
            started_ns=0,
            lookups=self.scene.lookups,
        )
        self.exports = Exports(
            self.observer.answer,
            node_name="east/node1",
            directory=directory,
            fixed=fixed,
            clock_ns=lambda: self.scene.clock() + BOOT_OFFSET_NS,
        )
        self.scope = TaskScope("exports")

    async def apply(self, entries: list[dict[str, Any]]) -> None:
        await self.exports.apply(self.scope, json.dumps({"flowLogs": entries}).encode())
        await asyncio.sleep(0)  # the exports begin to follow

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def scrape(self) -> str:
        registry = CollectorRegistry()
        ExportCollector(registry, self.exports)
        return generate_latest(registry).decode()


@asynccontextmanager
async def node(directory: Path, **values: Any) -> AsyncIterator[Node]:
    made = Node(directory, **values)
    async with made.scope:
        yield made


def uuids(lines: list[dict[str, Any]]) -> list[str]:
    return [line["flow"]["uuid"][-4:] for line in lines if "flow" in line]


async def test_flows_are_written_as_clients_get_them(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.apply([{"name": "all", "filePath": "all.log"}])
        made.scene.feed.append(event())
        made.scene.lookups.add([answer()], 2)
        made.scene.feed.add_lost(3)
        await eventually(lambda: len(made.lines("all.log")) == 4)
    lines = made.lines("all.log")
    first = next(line for line in lines if line.get("flow", {}).get("Type") == "L3_L4")
    assert first["node_name"] == first["flow"]["node_name"] == "east/node1"
    assert first["time"] == "2026-03-01T10:00:00.002Z"
    assert first["flow"]["source"]["pod_name"] == "web-1"
    assert {line["flow"]["Type"] for line in lines if "flow" in line} == {"L3_L4", "L7"}
    lost = {
        line["lost_events"]["source"]: line["lost_events"]["num_events_lost"]
        for line in lines
        if "lost_events" in line
    }
    assert lost == {"PERF_EVENT_RING_BUFFER": "3", "OBSERVER_EVENTS_QUEUE": "2"}


async def test_filters_and_masks_of_each_export(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.apply([
            {"name": "drops", "filePath": "drops.log", "includeFilters": [{"verdict": ["DROPPED"]}],
             "excludeFilters": [{"destination_port": ["1"]}]},
            {"name": "few", "filePath": "few.log", "fieldMask": ["source.pod_name", "verdict"]},
        ])  # fmt: skip
        for verdict, port in ((1, 80), (2, 1), (2, 80)):
            made.scene.feed.append(event(verdict=verdict, destination_port=port))
        await eventually(lambda: len(made.lines("few.log")) == 3 and len(made.lines("drops.log")) == 1)
    assert uuids(made.lines("drops.log")) == ["0002"]
    assert made.lines("few.log")[0] == {
        "flow": {"verdict": "FORWARDED", "source": {"pod_name": "web-1"}},
        "node_name": "east/node1",
        "time": "2026-03-01T10:00:00.002Z",
    }


async def test_a_changed_list_leaves_the_others_running(tmp_path: Path) -> None:
    keep: dict[str, Any] = {"name": "keep", "filePath": "keep.log"}
    change: dict[str, Any] = {"name": "change", "filePath": "change.log"}
    async with node(tmp_path) as made:
        await made.apply([keep, change, {"name": "gone", "filePath": "gone.log"}])
        kept = made.exports.exporters["keep"]
        made.scene.feed.append(event())
        await eventually(lambda: all(len(made.lines(f"{n}.log")) == 1 for n in ("keep", "change", "gone")))
        change["includeFilters"] = [{"verdict": ["DROPPED"]}]
        await made.apply([change, keep, {"name": "new", "filePath": "gone.log"}])
        assert made.exports.exporters["keep"] is kept
        made.scene.feed.append(event())
        made.scene.feed.append(event(verdict=flow_pb2.DROPPED))
        await eventually(lambda: len(made.lines("keep.log")) == 3 and len(made.lines("gone.log")) == 3)
        await eventually(lambda: len(made.lines("change.log")) == 2)
        text = made.scrape()
    assert uuids(made.lines("keep.log")) == ["0000", "0001", "0002"]
    assert uuids(made.lines("change.log")) == ["0000", "0002"]
    for line in (
        'hubble_dynamic_exporter_reconfigurations_total{op="add"} 4.0',
        'hubble_dynamic_exporter_reconfigurations_total{op="update"} 1.0',
        'hubble_dynamic_exporter_reconfigurations_total{op="remove"} 1.0',
        'hubble_dynamic_exporter_exporters_total{status="active"} 3.0',
        'hubble_dynamic_exporter_exporters_total{status="inactive"} 0.0',
        'hubble_dynamic_exporter_up{name="keep"} 1.0',
        'hubble_export_events_total{name="gone"} 1.0',
        'hubble_export_lost_events_total{name="keep"} 0.0',
        "hubble_dynamic_exporter_config_refused 0.0",
    ):
        assert line in text.splitlines()


async def test_a_wrong_list_changes_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    async with node(tmp_path) as made:
        made.list.write_text("flowLogs: [{name: a, filePath: a.log}]")
        made.scope.start("watch", made.exports.watch(made.scope, made.list, clock.sleep))
        await eventually(lambda: clock.sleepers == 1 and "a" in made.exports.exporters)
        before = made.exports.exporters["a"]
        applied = made.exports.changes.config_hash
        for wrong in ("flowLogs: [{name: b}]", None, "flowLogs: [{name: b, filePath: b.log, end: x}]"):
            if wrong is None:
                made.list.unlink()
            else:
                made.list.write_text(wrong)
            clock.advance(5)
            await eventually(lambda: clock.sleepers == 1 and made.exports.changes.problem)
            assert made.exports.exporters == {"a": before}
            assert made.exports.changes.config_hash == applied
            assert "hubble_dynamic_exporter_config_refused 1.0" in made.scrape()
        assert "flowLogs[0].filePath" in caplog.text or "filePath" in str(
            [getattr(record, "error", "") for record in caplog.records]
        )
        made.list.write_text("flowLogs: [{name: b, filePath: b.log}]")
        clock.advance(5)
        await eventually(lambda: list(made.exports.exporters) == ["b"])
        assert made.exports.changes.problem == ""


async def test_a_list_that_comes_back_is_no_problem_any_more(tmp_path: Path) -> None:
    text = "flowLogs: [{name: a, filePath: a.log}]"
    async with node(tmp_path) as made:
        for present in (True, False, True):
            if present:
                made.list.write_text(text)
            else:
                made.list.unlink()
            await made.exports.look(made.scope, made.list)
            assert bool(made.exports.changes.problem) is not present
            assert list(made.exports.exporters) == ["a"]
        assert made.exports.changes.operations["add"] == 1


async def test_an_export_ends_at_its_time(tmp_path: Path) -> None:
    async with node(tmp_path) as made:
        await made.apply([
            {"name": "over", "filePath": "over.log", "end": "2026-03-01T10:00:09Z"},
            {"name": "soon", "filePath": "soon.log", "end": "2026-03-01T10:00:11Z"},
        ])  # fmt: skip
        made.scene.feed.append(event())
        await eventually(lambda: len(made.lines("soon.log")) == 1)
        made.scene.clock.now_ns += 2_000_000_000
        made.scene.feed.append(event())
        await eventually(lambda: not made.exports.is_up("soon"))
        assert 'hubble_dynamic_exporter_exporters_total{status="inactive"} 2.0' in made.scrape()
    assert not made.lines("over.log")


async def test_a_fixed_export_stands_beside_the_list(tmp_path: Path) -> None:
    fixed = ExportSettings(name="static", path=tmp_path / "events.log")
    async with node(tmp_path, fixed=fixed) as made:
        made.exports.start(made.scope)
        await made.apply([{"name": "a", "filePath": "a.log"}])
        await made.apply([])
        made.scene.feed.append(event())
        await eventually(lambda: len(made.lines("events.log")) == 1)
    assert not made.lines("a.log")


async def test_a_filter_that_the_observer_refuses_leaves_everything(tmp_path: Path) -> None:
    def refuse(_: Any) -> Any:
        raise Unsupported("not this one")

    async with node(tmp_path) as made:
        made.exports._ask = refuse
        with pytest.raises(Unsupported):
            await made.apply([{"name": "a", "filePath": "a.log"}])
        assert not made.exports.exporters


async def test_rotation_loses_nothing(tmp_path: Path) -> None:
    fixed = ExportSettings(
        name="static", path=tmp_path / "events.log", max_bytes=20_000, max_backups=100, compress=True
    )
    async with node(tmp_path, fixed=fixed, capacity=1024) as made:
        made.exports.start(made.scope)
        await asyncio.sleep(0)
        for start in range(0, 400, 50):
            for _ in range(50):
                made.scene.feed.append(event())
            await eventually(partial(has_written, made, "static", start + 50))
    parts = [gzip.decompress(path.read_bytes()) for path in backups(tmp_path)]
    assert len(parts) > 5
    parts.append((tmp_path / "events.log").read_bytes())
    lines = [json.loads(line) for line in b"".join(parts).splitlines()]
    assert len(lines) == 400
    assert len(set(uuids(lines))) == 400


def has_written(made: Node, name: str, events: int) -> bool:
    return name in (totals := made.exports.totals()) and totals[name].written == events


def backups(directory: Path) -> list[Path]:
    return sorted(directory.glob("events-*.log.gz"))


async def test_the_loop_never_waits_for_a_disk(tmp_path: Path) -> None:
    """A pipe that nobody reads takes nothing once it is full: what finds no room is counted as lost."""
    os.mkfifo(tmp_path / "stuck.log")
    reader = os.open(tmp_path / "stuck.log", os.O_RDONLY | os.O_NONBLOCK)
    async with node(tmp_path, capacity=16_384) as made:
        try:
            await made.apply([{"name": "stuck", "filePath": "stuck.log"}])
            for _ in range(6_000):
                made.scene.feed.append(event())
            writer = await eventually(lambda: made.exports.exporters["stuck"].writer)
            fewest = 6_000 - CAPACITY - BATCH
            await eventually(lambda: writer is not None and writer.lost >= fewest, seconds=30)
        finally:
            os.close(reader)  # from here on writing fails
    assert writer is not None
    assert writer.written < BATCH
    assert writer.problem
    total = made.exports.totals()["stuck"]
    assert total.written + total.lost == 6_000
