"""What Prometheus reads: the text of a scrape, and promtool's opinion of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from axoneme.api.hubble.flow import flow_pb2
from shim.hubble.export.collect import ExportCollector
from shim.hubble.export.running import Exports
from shim.hubble.metrics.collect import HubbleCollector
from shim.hubble.metrics.options import PLUGIN_FLAGS
from tests.unit.shim.flows.lookupscene import answer
from tests.unit.shim.flows.scene import event
from tests.unit.shim.hubble.hubblescene import MetricScene
from tests.unit.shim.hubble.test_metric_plugins import http, kafka

GOLDEN = """\
# HELP hubble_lost_events_total Events that were lost, by where.
# TYPE hubble_lost_events_total counter
hubble_lost_events_total{source="perf_event_ring_buffer"} 3.0
hubble_lost_events_total{source="observer_events_queue"} 0.0
hubble_lost_events_total{source="hubble_ring_buffer"} 0.0
# HELP hubble_metrics_overflow_total Samples without room for another series.
# TYPE hubble_metrics_overflow_total counter
hubble_metrics_overflow_total 0.0
# HELP hubble_metrics_series Series of flow metrics that are held.
# TYPE hubble_metrics_series gauge
hubble_metrics_series 4.0
# HELP hubble_drop_total Drops.
# TYPE hubble_drop_total counter
hubble_drop_total{protocol="TCP",reason="POLICY_DENIED",source="shop/web-1"} 2.0
# HELP hubble_dns_queries_total DNS queries seen.
# TYPE hubble_dns_queries_total counter
# HELP hubble_dns_responses_total DNS responses seen.
# TYPE hubble_dns_responses_total counter
hubble_dns_responses_total{ips_returned="1",qtypes="A",query="api.example.com.",rcode="No Error"} 1.0
# HELP hubble_dns_response_types_total Records in DNS responses.
# TYPE hubble_dns_response_types_total counter
hubble_dns_response_types_total{qtypes="A",query="api.example.com.",type="A"} 1.0
# HELP hubble_kafka_requests_total Kafka requests seen.
# TYPE hubble_kafka_requests_total counter
hubble_kafka_requests_total{api_key="produce",error_code="3",reporter="client",topic="orders"} 1.0
# HELP hubble_kafka_request_duration_seconds Time that a Kafka request took.
# TYPE hubble_kafka_request_duration_seconds histogram
"""


def scene_of(metrics: list[str]) -> tuple[MetricScene, CollectorRegistry]:
    scene, registry = MetricScene(metrics), CollectorRegistry()
    HubbleCollector(registry, scene.counter.table, scene.follower.lost)
    return scene, registry


async def test_a_scrape() -> None:
    scene, registry = scene_of(["drop:sourceContext=pod", "dns:query", "kafka"])
    scene.feed.append(event())
    for _ in range(2):
        scene.feed.append(event(verdict=flow_pb2.DROPPED, event_type=1, drop_reason=133))
    scene.feed.add_lost(3)
    scene.lookups.add([answer()], 0)
    await scene.follower.step()
    scene.counter.count(kafka())
    text = generate_latest(registry).decode()
    head, _, histogram = text.partition("hubble_kafka_request_duration_seconds_bucket")
    assert head == GOLDEN.replace("hubble_metrics_series 4.0", "hubble_metrics_series 5.0")
    assert 'le="0.0025"' not in histogram
    assert '{api_key="produce",le="0.005",reporter="client",topic="orders"} 1.0' in histogram
    assert '{api_key="produce",le="+Inf",reporter="client",topic="orders"} 1.0' in histogram
    assert 'seconds_sum{api_key="produce",reporter="client",topic="orders"} 0.002' in histogram


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt install prometheus")
@pytest.mark.parametrize("http_plugin", ["http", "httpV2"])
async def test_promtool_finds_nothing_wrong(http_plugin: str, tmp_path: Path) -> None:
    contexts = "sourceContext=pod|dns;destinationContext=ip;labelsContext=source_ip,traffic_direction"
    plugins = [name for name in PLUGIN_FLAGS if name not in ("http", "httpV2")]
    scene, registry = scene_of([f"{name}:{contexts}" for name in [*plugins, http_plugin]])
    ExportCollector(
        registry, Exports(lambda _: pytest.fail("nothing is exported"), node_name="n", directory=tmp_path)
    )
    for verdict in (1, 2, 5):
        for kind in (1, 4, 5):
            scene.feed.append(event(verdict=verdict, event_type=kind, drop_reason=133, protocol=6))
            scene.feed.append(event(verdict=verdict, event_type=kind, protocol=1, destination_identity=9))
    scene.lookups.add([answer()], 0)
    await scene.follower.step()
    for one in (kafka(), http(flow_pb2.REQUEST), http(flow_pb2.RESPONSE, 200, 12)):
        scene.counter.count(one)
    assert all(list(scene.counter.table.items(i)) for i, f in enumerate(scene.counter.table.families)
               if f.name not in ("sctp_chunk_types", "dns_queries"))  # fmt: skip
    checked = await asyncio.to_thread(promtool, generate_latest(registry))
    assert checked == (0, b"", b"")


def promtool(text: bytes) -> tuple[int, bytes, bytes]:
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr
