"""`axoneme observe` asks a served node for DNS messages and names."""

# ruff: noqa: E501  (lines stand as they are printed)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import pytest

from axoneme.cli.main import main
from shim.observer import ObserverService
from tests.unit.shim.flows.lookupscene import LookupScene, answer, lookup
from tests.unit.shim.flows.scene import event, events

SECOND = 1_000_000_000
LINES = (
    "Mar  1 10:00:01.000: shop/web-1:53011 (ID:20101) -> shop/api-1:53 (ID:20102) dns-request proxy FORWARDED (DNS Query api.example.com. A)\n",
    'Mar  1 10:00:02.000: shop/web-1:53011 (ID:20101) <- shop/api-1:53 (ID:20102) dns-response proxy FORWARDED (DNS Answer "192.0.2.7" TTL: 30 (Proxy api.example.com. A))\n',
    "Mar  1 10:00:03.000: shop/web-1:41000 (ID:20101) -> api.example.com:443 (world-ipv4) to-stack FORWARDED (TCP Flags: SYN)\n",
    "Mar  1 10:00:04.000: shop/web-1:53011 (ID:20101) -> shop/api-1:53 (ID:20102) dns-request proxy DROPPED (DNS Query evil.test. A)\n",
)


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    """A node that saw a lookup, the connection that followed, and a refused lookup."""
    scene = LookupScene()
    world = {"destination_ip": "192.0.2.7", "destination_identity": 9, "destination_port": 443}
    scene.feed.append(events(event(time_ns=3 * SECOND, **world)))
    refused = lookup(time_ns=4 * SECOND, query="evil.test.", verdict="LOOKUP_VERDICT_DENIED", rcode=5)
    scene.lookups.add([lookup(time_ns=1 * SECOND), answer(time_ns=2 * SECOND), refused], 0)
    service = ObserverService(
        scene.feed, scene.decoder, version="0.1.0", boot_clock_ns=scene.clock, started_ns=0,
        lookups=scene.lookups,
    )  # fmt: skip
    path = tmp_path / "observer.sock"
    async with grpcserver.serving([grpcserver.Listener(f"unix://{path}")], service.add_to, drain_seconds=0.0):
        yield path


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], [0, 1, 2, 3]),
        (["--protocol", "dns"], [0, 1, 3]),
        (["--type", "l7", "--last", "2"], [1, 3]),
        (["--type", "l7", "--first", "1"], [0]),
        (["--protocol", "dns", "--verdict", "DROPPED"], [3]),
        (["--not", "--type", "l7"], [2]),
        (["--to-fqdn", "*.example.com"], [2]),
        (["--fqdn", "api.example.com."], [2]),
        (["--from-fqdn", "*.example.com"], []),
        (["--to-fqdn", "example.com"], []),
        (["--dns-query", r"^(api|www)\."], [0, 1]),
        (["--reply", "true"], [1]),
        (["--since", "2026-03-01T10:00:02Z", "--until", "2026-03-01T10:00:03Z"], [1, 2]),
    ],
)
async def test_flows_are_found_and_told_in_order_of_time(
    socket: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], wanted: list[int]
) -> None:
    command = ["observe", "--socket", str(socket), *arguments]
    assert await asyncio.to_thread(main, command) == 0
    assert capsys.readouterr().out == "".join(LINES[index] for index in wanted)
