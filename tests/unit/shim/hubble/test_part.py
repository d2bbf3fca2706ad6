"""Metrics, exports and redaction of a flow service, over real HTTP and files."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.tasks import TaskScope
from shim.flows.answer import Answer
from shim.flows.feed import FlowFeed
from shim.flows.lookups import Lookups
from shim.flows.lookupstore import LookupStore
from shim.flows.query import RecordDecoder
from shim.hubble.options import HubbleOptions
from shim.hubble.part import HubblePart
from shim.hubble.redaction import REDACTED
from shim.observer import ObserverService
from tests.unit.shim.flows.lookupscene import answer, lookup
from tests.unit.shim.flows.scene import event, make_feed
from tests.unit.shim.hubble.test_metric_plugins import http
from tests.waiting import eventually


class HttpDecoder:
    """Shows every message as the answer to a request with a password."""

    def __init__(self, decoder: RecordDecoder) -> None:
        self.names = decoder.names

    def decode(self, event: Any, number: int) -> flow_pb2.Flow:
        flow = http(flow_pb2.RESPONSE, 200, 5)
        flow.l7.http.url = f"http://u:secret@api/{number}?token=secret"
        flow.Summary = f"HTTP/1.1 200 5ms (GET {flow.l7.http.url})"
        flow.node_name = self.names.full_node_name
        flow.time.GetCurrentTime()
        return flow


class HttpStore(LookupStore):
    """Messages that are HTTP."""

    layer7 = "http"


class Part:
    """An observer with what is made of its flows."""

    def __init__(self, options: HubbleOptions, *, with_http: bool = False) -> None:
        self.feed, self.decoder, self.clock = make_feed(1024)
        store = HttpStore(64) if with_http else LookupStore(64)
        self.lookups = Lookups(self.decoder, boot_clock_ns=self.clock, bell=self.feed.bell, store=store)
        if with_http:
            self.lookups.decoder = HttpDecoder(self.lookups.decoder)  # type: ignore[assignment]
        self.part = HubblePart(options)
        self.observer = ObserverService(
            self.feed,
            self.decoder,
            version="0.1.0",
            boot_clock_ns=self.clock,
            started_ns=0,
            lookups=self.lookups,
            shown=self.part.shown,
        )

    async def scrape(self) -> list[str]:
        assert self.part.address is not None
        address = await self.part.address
        return await asyncio.to_thread(get, f"http://{address}/metrics")


def get(url: str) -> list[str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode()).splitlines()


@asynccontextmanager
async def running(with_http: bool = False, **options: Any) -> AsyncIterator[Part]:
    made = Part(HubbleOptions(hubble_metrics_address="127.0.0.1:0", **options), with_http=with_http)
    async with TaskScope() as scope:
        made.part.start(
            scope,
            sources=made.observer.sources,
            names=made.decoder,
            ask=made.observer.answer,
            boot_clock_ns=made.clock,
        )
        await asyncio.sleep(0)
        yield made


async def test_metrics_are_served_on_an_address_of_their_own() -> None:
    async with running(hubble_metrics=("flow", "dns:query")) as made:
        made.feed.append(event())
        made.lookups.add([lookup(), answer()], 4)

        async def counted() -> set[str] | None:
            lines = await made.scrape()
            wanted = {
                'hubble_lost_events_total{source="observer_events_queue"} 4.0',
                flows_processed("TCP", "Trace", "to-stack", 1),
                flows_processed("DNS", "L7", "DNS", 2),
                'hubble_dns_queries_total{ips_returned="0",qtypes="A",query="api.example.com.",rcode=""} 1.0',
            }
            return wanted if wanted <= set(lines) else None

        found: set[str] | None = await eventually(counted)
        assert found


def flows_processed(protocol: str, kind: str, sub_kind: str, count: float) -> str:
    labels = f'protocol="{protocol}",subtype="{sub_kind}",type="{kind}",verdict="FORWARDED"'
    return f"hubble_flows_processed_total{{{labels}}} {count:.1f}"


async def test_without_metrics_and_exports_nothing_is_served_or_run() -> None:
    made = Part(HubbleOptions())
    async with TaskScope() as scope:
        made.part.start(
            scope,
            sources=made.observer.sources,
            names=made.decoder,
            ask=made.observer.answer,
            boot_clock_ns=made.clock,
        )
        assert len(scope) == 0
    assert made.part.address is None


async def test_the_fixed_export_and_the_list(tmp_path: Path) -> None:
    config = tmp_path / "exports.yaml"
    config.write_text(
        "flowLogs: [{name: drops, filePath: drops.log, includeFilters: [{verdict: [DROPPED]}]}]"
    )
    async with running(
        hubble_export_directory=tmp_path / "out",
        hubble_export_file="events.log",
        hubble_export_denylist='{"destination_port":["1"]}',
        hubble_export_field_mask=("verdict",),
        hubble_export_config=str(config),
    ) as made:
        await eventually(lambda: len(tasks_named("export drops")) == 1)
        for verdict, port in ((1, 1), (2, 80)):
            made.feed.append(event(verdict=verdict, destination_port=port))
        events, drops = tmp_path / "out" / "events.log", tmp_path / "out" / "drops.log"
        await eventually(lambda: all(one.exists() and one.read_bytes() for one in (events, drops)))
        lines = await made.scrape()
    assert [json.loads(line)["flow"] for line in events.read_text().splitlines()] == [{"verdict": "DROPPED"}]
    assert len(drops.read_text().splitlines()) == 1
    assert 'hubble_dynamic_exporter_up{name="static"} 1.0' in lines
    assert 'hubble_dynamic_exporter_up{name="drops"} 1.0' in lines


def tasks_named(name: str) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().endswith(name)]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hubble_export_file": "../out.log"}, "hubble_export_file"),
        ({"hubble_export_file": "a", "hubble_export_allowlist": "{"}, "hubble_export_allowlist"),
        ({"hubble_export_file": "a", "hubble_export_denylist": '{"x":1}'}, "hubble_export_denylist[0]"),
        ({"hubble_export_file": "a", "hubble_export_field_mask": ("pod",)}, "hubble_export_field_mask"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as error:
        HubblePart(HubbleOptions(hubble_export_directory=tmp_path, **options))
    assert error.value.violations[0].field == field


async def test_redaction_comes_before_filters_answers_exports_and_metrics(tmp_path: Path) -> None:
    async with running(
        with_http=True,
        hubble_redact=True,
        hubble_redact_http_url_query=True,
        hubble_metrics=("httpV2:sourceContext=pod",),
        hubble_export_directory=tmp_path,
        hubble_export_file="events.log",
    ) as made:
        made.lookups.add([answer()], 0)
        request = observer_pb2.GetFlowsRequest(number=10)
        made_answer, _ = made.observer.answer(request)
        shown = [response async for response in made_answer.responses()]
        await eventually((tmp_path / "events.log").exists)
        await eventually(lambda: (tmp_path / "events.log").read_bytes())

        async def counted() -> list[str]:
            return [line for line in await made.scrape() if line.startswith("hubble_http_requests_total{")]

        found: list[str] = await eventually(counted)
        assert len(found) == 1
    assert [one.flow.l7.http.url for one in shown] == [f"http://u:{REDACTED}@api/0"]
    text = (tmp_path / "events.log").read_text()
    assert REDACTED in text
    assert "secret" not in text
    assert "secret" not in str(shown)


async def test_without_redaction_everything_shows() -> None:
    made = Part(HubbleOptions(), with_http=True)
    made.lookups.add([answer()], 0)
    made_answer, _ = made.observer.answer(observer_pb2.GetFlowsRequest(number=1))
    assert isinstance(made_answer, Answer)
    shown = [response async for response in made_answer.responses()]
    assert "token=secret" in shown[0].flow.Summary
    assert isinstance(made.feed, FlowFeed)
