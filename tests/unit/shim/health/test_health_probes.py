"""Probes and what answers them, over real sockets of the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from axoneme.lib.errors import Unavailable
from shim.health.prober import Prober
from shim.health.probes import NOT_PERMITTED, probes
from shim.health.responder import MAX_HEADER_BYTES, HealthResponder, response_to
from shim.health.table import HTTP, ICMP, NODE, HealthTable, Outcome, Target
from tests.waiting import FakeClock, eventually

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as one:
        one.bind((address, 0))
        return int(one.getsockname()[1])


async def nowhere(ips: tuple[str, ...]) -> list[socket.socket]:
    raise Unavailable("the helper is away")


@contextlib.asynccontextmanager
async def answering(address: str, port: int) -> AsyncIterator[HealthResponder]:
    responder = HealthResponder(port=port, open_health=nowhere)
    await responder.follow([address], ())
    try:
        assert responder.problems() == []
        yield responder
    finally:
        responder.close()


async def asked(address: str, port: int, request: bytes, *, end: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


@pytest.mark.parametrize("family", [4, 6])
async def test_a_node_answers_where_it_is_told(family: int) -> None:
    address = LOOPBACK[family]
    port = free_port(address)
    http = probes(port)[HTTP]
    assert (await http(address)).error == "refused: nobody listens there"
    async with answering(address, port) as responder:
        found = await http(address)
        assert found.reachable
        assert 0 < found.seconds < 3
        await responder.follow([], ())
    assert not (await http(address)).reachable


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /hello HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /hello HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /hello/x HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /hello HTTP/1.12\r\n\r\n", b"404 Not Found"),
        (b"x" * (MAX_HEADER_BYTES + 10), b"400 Bad Request"),
        (b"", b"400 Bad Request"),
    ],
)
async def test_only_hello_is_answered(request_text: bytes, status: bytes) -> None:
    address = LOOPBACK[4]
    port = free_port(address)
    async with answering(address, port):
        answer = await asked(address, port, request_text, end=True)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_a_header_decides() -> None:
    assert response_to(b"GET /hello HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert response_to(b"").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("family", [4, 6])
async def test_who_says_nothing_or_nonsense_is_not_reachable(family: int) -> None:
    address = LOOPBACK[family]
    replies = {"silent": b"", "nonsense": b"SSH-2.0-x\r\n", "busy": b"HTTP/1.1 503 Busy\r\n\r\n"}
    said = []
    for reply in replies.values():

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: bytes = reply) -> None:
            writer.write(reply)
            if reply:
                writer.close()

        server = await asyncio.start_server(answer, address, 0)
        port = server.sockets[0].getsockname()[1]
        said.append((await probes(port, timeout_seconds=0.2)[HTTP](address)).error)
        server.close()
    assert said[0] == "no answer within 0.2 s"
    assert said[1].endswith("does not speak HTTP")
    assert said[2] == "answered 503 Busy"


def pings_are_permitted() -> bool:
    low, high = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    return low <= high


@pytest.mark.parametrize("family", [4, 6])
async def test_an_echo_comes_back_or_is_not_permitted(family: int) -> None:
    found = await probes(1)[ICMP](LOOPBACK[family])
    if pings_are_permitted():
        assert found.reachable
    else:
        assert found.error in (NOT_PERMITTED, "")


async def test_a_missing_permission_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shim.health.probes.socket.socket", refuse)
    assert (await probes(1)[ICMP](LOOPBACK[4])).error == NOT_PERMITTED


async def test_what_cannot_be_opened_is_told_and_tried_again() -> None:
    address = LOOPBACK[4]
    port = free_port(address)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((address, port))
        other.listen()
        responder = HealthResponder(port=port, open_health=nowhere)
        await responder.follow([address], ["10.1.0.9"])
        problems = responder.problems()
    assert len(problems) == 2
    assert address in problems[0]
    assert "the helper is away" in problems[1]
    await responder.follow([address], ())
    assert [one for one in responder.problems() if address in one] == []
    assert (await probes(port)[HTTP](address)).reachable
    responder.close()


@pytest.mark.parametrize("family", [4, 6])
async def test_the_endpoint_listens_on_sockets_of_the_helper(family: int) -> None:
    address = LOOPBACK[family]
    port = free_port(address)
    opened: list[tuple[str, ...]] = []

    async def open_health(ips: tuple[str, ...]) -> list[socket.socket]:
        opened.append(ips)
        made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen()
        return [made]

    responder = HealthResponder(port=port, open_health=open_health)
    for _ in range(2):
        await responder.follow((), [address])
        assert (await probes(port)[HTTP](address)).reachable
    assert opened == [(address,)]
    responder.forget_endpoint()
    await responder.follow((), [address])
    assert len(opened) == 2
    responder.close()


def targets(count: int) -> list[Target]:
    return [Target("east/n2", NODE, f"192.0.2.{number}", HTTP) for number in range(1, count + 1)]


async def test_all_are_probed_so_many_at_a_time() -> None:
    busy, most = 0, 0
    gate = asyncio.Event()

    async def ask(address: str) -> Outcome:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await gate.wait()
        busy -= 1
        return Outcome(seconds=0.001) if address != "192.0.2.3" else Outcome(error="refused")

    table = HealthTable(10, clock=FakeClock(), rng=random.Random(1))
    table.replace(targets(9))
    prober = Prober(table, {HTTP: ask}, now=lambda: NOW, max_probes=4)
    running = asyncio.ensure_future(prober.probe_all())
    await eventually(lambda: busy == 4)
    gate.set()
    await running
    assert most == 4
    assert len(table.results) == 9
    assert [one.address for one, result in table.results.items() if not result.outcome.reachable] == [
        "192.0.2.3"
    ]


async def test_it_goes_on_by_itself() -> None:
    count: dict[str, int] = {}

    async def ask(address: str) -> Outcome:
        count[address] = count.get(address, 0) + 1
        return Outcome()

    clock = asyncio.get_running_loop().time
    table = HealthTable(0.02, clock=clock, rng=random.Random(1))
    table.replace(targets(3))
    running = asyncio.ensure_future(Prober(table, {HTTP: ask}, now=lambda: NOW, clock=clock).run())
    await eventually(lambda: len(count) == 3 and min(count.values()) >= 3)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
