"""Logs, tasks, lifecycle, HTTP server, telemetry: what every process is made of."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import sys

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from axoneme.lib import httpserver, lifecycle, log, telemetry
from axoneme.lib.errors import InvalidArgument, Unavailable
from axoneme.lib.tasks import TaskScope
from tests.waiting import eventually


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    log.setup("info", stream)
    return stream


def test_log_lines_are_json(lines: io.StringIO) -> None:
    logger = logging.getLogger("axoneme.test")
    logger.info("node seen", extra={log.NODE: "n1", log.ADDRESS: ("a", 1), log.ERROR: "x" * 400})
    logger.debug("not shown")
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert (first["level"], first["msg"], first["node"], first["address"]) == (
        "info",
        "node seen",
        "n1",
        ["a", 1],
    )
    assert len(first["error"]) == log.CLIP_CHARACTERS
    assert first["ts"].endswith("Z")
    assert "ValueError: bad" in second["exception"]


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of"):
        log.setup("loud")


async def test_scope_cancels_and_waits() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    async with TaskScope() as scope:
        scope.start("a", work())
        scope.start("b", work())
        await asyncio.sleep(0)
    assert ended == [1, 1]
    assert not scope.failed.is_set()


@pytest.mark.parametrize("fails", [True, False])
async def test_end_of_a_critical_task_is_seen(lines: io.StringIO, fails: bool) -> None:
    async def work() -> None:
        if fails:
            raise RuntimeError("broken")

    async with TaskScope() as scope:
        scope.start("reader", work())
        await asyncio.wait_for(scope.wait_failed(), 5)
    assert (scope.failure is not None) == fails
    assert scope.failed_task == "reader"
    assert '"task": "reader"' in lines.getvalue()


async def test_end_of_a_side_task_is_not_a_failure() -> None:
    async def work() -> None:
        return None

    async with TaskScope() as scope:
        await scope.start("side", work(), critical=False)
        assert not scope.failed.is_set()


async def test_closed_scope_starts_nothing() -> None:
    async def work() -> None: ...

    scope = TaskScope()
    await scope.close()
    with pytest.raises(RuntimeError, match="closing"):
        scope.start("late", work())


async def test_first_signal_asks_to_stop() -> None:
    async with lifecycle.until_signalled() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
        async with TaskScope() as scope:
            assert await lifecycle.wait_for_end(stop, scope) == 0


async def test_failed_task_ends_the_process_with_1() -> None:
    async def work() -> None:
        raise RuntimeError("broken")

    async with TaskScope() as scope:
        scope.start("reader", work())
        assert await lifecycle.wait_for_end(asyncio.Event(), scope) == 1


async def test_second_signal_leaves_at_once() -> None:
    code = (
        "import asyncio, sys\nfrom axoneme.lib import lifecycle\n"
        "async def main():\n"
        "  async with lifecycle.until_signalled() as stop:\n"
        "    print('up', flush=True)\n    await stop.wait()\n    print('stopping', flush=True)\n"
        "    await asyncio.Event().wait()\nasyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert await process.stdout.readline() == b"stopping\n"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 128 + signal.SIGTERM


async def test_http_answers_and_says_why_not() -> None:
    registry, reasons = CollectorRegistry(), ["identity stream is not synced"]
    Counter("axoneme_test", "A count.", registry=registry).inc()
    alive = [True]
    async with (
        httpserver.serving(
            "127.0.0.1:0", registry, lambda: alive[0], lambda: reasons[0] if reasons else None
        ) as address,
        aiohttp.ClientSession(f"http://{address}") as session,
    ):
        async with session.get("/metrics") as answer:
            assert "axoneme_test_total 1.0" in await answer.text()
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "identity stream is not synced\n")
        reasons.clear()
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        alive[0] = False
        async with session.get("/healthz") as answer:
            assert answer.status == 503
        with pytest.raises(Unavailable, match="cannot serve HTTP"):
            async with httpserver.serving(address, registry):
                pass


async def test_http_without_an_address_is_off() -> None:
    async with httpserver.serving("", CollectorRegistry()) as address:
        assert address == ""


@pytest.mark.parametrize("address", ["9962", "host:", "host:x", "host:70000"])
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(InvalidArgument):
        httpserver.split_address(address)


def test_ipv6_address() -> None:
    assert httpserver.split_address("[::1]:9962") == ("::1", 9962)


def test_registry_says_what_runs() -> None:
    registry = telemetry.new_registry("identity")
    labels = {"version": telemetry.version(), "service": "identity"}
    assert registry.get_sample_value("axoneme_build_info", labels) == 1


async def test_eventually_reports_the_last_reason() -> None:
    def never() -> bool:
        raise AssertionError("still three")

    with pytest.raises(AssertionError, match="still three"):
        await eventually(never, seconds=0.01)
