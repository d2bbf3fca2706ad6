"""The DNS proxy with real sockets: TCP, both families."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from services.fqdn.model import REFUSED, Released
from services.fqdn.proxy.sockets import reset_on_close
from tests.contract.runningproxy import RunningProxy, received, running, sent, silent
from tests.dnsmessages import answer, framed, query
from tests.dnsnetwork import RESOLVER, DnsNetwork, dns_network
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.slow]
ADDRESSES = {4: b"\xc0\0\2\1", 6: bytes(15) + b"\1"}
FAMILIES = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def network() -> Iterator[DnsNetwork]:
    with dns_network() as made:
        yield made


@pytest.fixture
def proxy(network: DnsNetwork) -> Iterator[RunningProxy]:
    with running(network) as one:
        yield one
    assert one.counters.mishaps == 0
    assert one.counters.buffered_bytes == one.counters.connections == one.counters.in_flight == 0


def ended(one: socket.socket) -> bool:
    """Whether the other side closed or reset the connection."""
    try:
        return one.recv(65_535) == b""
    except ConnectionResetError:
        return True


@FAMILIES
def test_several_queries_at_once_and_answers_in_another_order(proxy: RunningProxy, v: int) -> None:
    listener, client = proxy.listener(v), proxy.connection(v)
    sent(client, *(query(1, f"ok{number}") for number in range(5)), query(2, "no"))
    server = proxy.accepted(listener)
    assert server.getpeername()[:2] == client.getsockname()[:2]
    assert client.getpeername()[0] == RESOLVER[v]
    refused = received(client)
    assert (refused[:2], refused[3] & 15) == (b"\x00\x02", REFUSED)
    messages = [received(server) for _ in range(5)]
    assert [message[2:] for message in messages] == [query(0, f"ok{number}")[2:] for number in range(5)]
    assert len({message[:2] for message in messages}) == 5
    sent(server, *(answer(message, ADDRESSES[v]) for message in reversed(messages)))
    for number in reversed(range(5)):
        assert received(client) == answer(query(1, f"ok{number}"), ADDRESSES[v])
    assert len(proxy.learner.learned) == 5


@FAMILIES
def test_a_query_and_an_answer_byte_by_byte(proxy: RunningProxy, v: int) -> None:
    listener, client = proxy.listener(v), proxy.connection(v)
    for byte in framed(query(1, "ok.example.com")):
        client.sendall(bytes((byte,)))
    server = proxy.accepted(listener)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = answer(received(server), ADDRESSES[v])
    for byte in framed(back):
        server.sendall(bytes((byte,)))
    assert received(client)[2:] == back[2:]


@FAMILIES
def test_the_largest_answer(proxy: RunningProxy, v: int) -> None:
    listener, client = proxy.listener(v), proxy.connection(v)
    sent(client, query(1, "ok"))
    server = proxy.accepted(listener)
    big = answer(received(server), *(number.to_bytes(4, "big") for number in range(3_999)))
    big += bytes(65_535 - len(big))
    sent(server, big)
    assert received(client)[2:] == big[2:]


@FAMILIES
def test_a_client_that_sends_no_more_gets_its_answers(proxy: RunningProxy, v: int) -> None:
    listener, client = proxy.listener(v), proxy.connection(v)
    sent(client, query(1, "ok"), query(2, "okay"))
    client.shutdown(socket.SHUT_WR)
    server = proxy.accepted(listener)
    messages = [received(server) for _ in range(2)]
    for message in messages:
        sent(server, answer(message, ADDRESSES[v]))
    assert [received(client)[:2] for _ in range(2)] == [b"\0\1", b"\0\2"]
    assert client.recv(1) == b""
    assert ended(server)  # by a reset: its port is free at once
    eventually_sync(lambda: proxy.counters.connections == 0)


@FAMILIES
def test_wrong_answers_are_ignored(proxy: RunningProxy, v: int) -> None:
    listener, client = proxy.listener(v), proxy.connection(v)
    sent(client, query(1, "ok"))
    server = proxy.accepted(listener)
    good = answer(received(server), ADDRESSES[v])
    sent(server, bytes((good[0] ^ 1,)) + good[1:], b"", b"x", good[:14] + b"!" + good[15:], good)
    assert received(client)[2:] == good[2:]
    assert silent(client)
    assert len(proxy.learner.learned) == 1


@FAMILIES
def test_a_server_that_refuses_and_one_that_closes(proxy: RunningProxy, v: int) -> None:
    client = proxy.connection(v)
    sent(client, query(1, "ok"))
    assert received(client)[3] & 15 == REFUSED
    listener = proxy.listener(v)
    sent(client, query(2, "ok"))  # tried again
    server = proxy.accepted(listener)
    received(server)
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@FAMILIES
def test_the_same_client_port_again_at_once(proxy: RunningProxy, v: int) -> None:
    listener = proxy.listener(v)
    first = proxy.connection(v)
    port = first.getsockname()[1]
    for number in range(5):
        client = first if not number else proxy.stack.enter_context(_again(proxy, v, port))
        sent(client, query(number, "ok"))
        server = proxy.accepted(listener)
        sent(server, answer(received(server), ADDRESSES[v]))
        assert received(client)[:2] == number.to_bytes(2, "big")
        reset_on_close(client)  # no TIME_WAIT of the client's own
        client.close()
        assert ended(server)


def _again(proxy: RunningProxy, v: int, port: int) -> socket.socket:
    one = proxy.network.client(v, socket.SOCK_STREAM, port=port)
    one.connect((RESOLVER[v], 53))
    return one


@FAMILIES
def test_held_answers(proxy: RunningProxy, v: int) -> None:
    listener, client = proxy.listener(v), proxy.connection(v)
    proxy.learner.verdict = Released.HELD
    sent(client, query(1, "ok"), query(2, "ok"))
    client.shutdown(socket.SHUT_WR)
    server = proxy.accepted(listener)
    for _ in range(2):
        sent(server, answer(received(server), ADDRESSES[v]))
    eventually_sync(lambda: proxy.counters.held_now == 2)
    assert silent(client)
    proxy.learner.say((1, Released.DROP), (2, Released.NOW))
    proxy.proxy.wake()
    assert received(client)[:2] == b"\x00\x02"
    assert client.recv(1) == b""


@FAMILIES
def test_pipelining_is_bounded_and_everything_is_answered(network: DnsNetwork, v: int) -> None:
    with running(network, max_pipelined=4) as proxy:
        listener, client = proxy.listener(v), proxy.connection(v)
        sent(client, *(query(number, "ok") for number in range(40)))
        server = proxy.accepted(listener)
        waiting = [received(server) for _ in range(4)]
        assert silent(server)
        for number in range(40):
            sent(server, answer(waiting.pop(0), ADDRESSES[v]))
            assert received(client)[:2] == number.to_bytes(2, "big")
            if number < 36:
                waiting.append(received(server))


@FAMILIES
def test_a_client_that_reads_nothing_stops_its_server_and_then_ends(network: DnsNetwork, v: int) -> None:
    with running(network, idle_connection_seconds=1.0) as proxy:
        listener = proxy.listener(v)
        client = proxy.stack.enter_context(network.client(v, socket.SOCK_STREAM))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((RESOLVER[v], 53))
        sent(client, *(query(number, "ok") for number in range(60)))
        server = proxy.accepted(listener)
        server.settimeout(20)
        highest = 0
        try:
            for _ in range(60):
                big = answer(received(server), *(number.to_bytes(4, "big") for number in range(3_900)))
                sent(server, big)
                highest = max(highest, proxy.counters.buffered_bytes)
        except (ConnectionResetError, BrokenPipeError, AssertionError):
            pass
        assert highest < 400_000
        eventually_sync(lambda: proxy.counters.connections == 0)
        assert proxy.counters.connections_timed_out == 1
        assert proxy.counters.buffered_bytes == 0


@FAMILIES
def test_idle_slow_and_oversized_connections_end(network: DnsNetwork, v: int) -> None:
    with running(network, idle_connection_seconds=0.3) as proxy:
        idle, slow, large = (proxy.connection(v) for _ in range(3))
        slow.sendall(framed(query(1, "ok"))[:-1])
        large.sendall(b"\xff\xff")
        assert ended(large)
        eventually_sync(lambda: proxy.counters.connections_timed_out == 2)
        assert ended(idle)
        assert ended(slow)


@FAMILIES
def test_a_flood_of_connections_costs_its_sender(network: DnsNetwork, v: int) -> None:
    with running(network, max_connections_per_client=4) as proxy:
        listener = proxy.listener(v)
        flood = [proxy.connection(v) for _ in range(6)]
        eventually_sync(lambda: proxy.counters.connections_opened == 6)
        assert [ended(one) for one in flood[:2]] == [True, True]
        assert proxy.counters.connections == 4
        for number, one in enumerate(flood[2:]):
            sent(one, query(number, "ok"))
        servers = [proxy.accepted(listener) for _ in range(4)]
        with suppress(ConnectionResetError):  # none is idle: reset, during or after the call
            assert ended(proxy.connection(v))
        assert proxy.counters.connections_refused == 1
        for server in servers:
            sent(server, answer(received(server), ADDRESSES[v]))
        for one in flood[2:]:
            received(one)


@FAMILIES
def test_the_total_of_connections_and_of_bytes(network: DnsNetwork, v: int) -> None:
    with running(network, max_connections=2, max_buffered_bytes=2_000) as proxy:
        first, second, third = (proxy.connection(v) for _ in range(3))
        assert ended(first)
        second.sendall(framed(query(1, "ok", more=bytes(2_500)))[:-1])
        assert ended(second)
        sent(third, query(1, "no"))
        received(third)
        assert proxy.counters.connections_evicted == 2


@FAMILIES
def test_a_bug_ends_one_query(network: DnsNetwork, v: int) -> None:
    with running(network) as proxy:
        client = proxy.connection(v)
        sent(client, query(1, "bug"), query(2, "no"))
        assert received(client)[:2] == b"\x00\x02"
        assert proxy.counters.mishaps == 1


def test_a_silent_server_is_not_answered_for(network: DnsNetwork) -> None:
    with running(network, forward_seconds=0.2) as proxy:
        listener, client = proxy.listener(4), proxy.connection(4)
        sent(client, query(1, "ok"))
        proxy.accepted(listener)
        eventually_sync(lambda: proxy.counters.timeouts == 1)
        assert silent(client)
        assert proxy.counters.in_flight == 0
