"""The DNS proxy with real sockets: UDP, both families."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from services.fqdn.model import REFUSED, Released, Verdict
from tests.bpf.namespaces import inside
from tests.contract.runningproxy import RunningProxy, running, silent
from tests.dnsmessages import answer, query, with_case
from tests.dnsnetwork import OTHER_RESOLVER, POD, RESOLVER, DnsNetwork, dns_network
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


@FAMILIES
def test_the_server_sees_the_client_and_the_client_the_server(proxy: RunningProxy, v: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    client.send(query(0x1234, "ok.example.com"))
    message, source = server.recvfrom(4_096)
    assert source[:2] == client.getsockname()[:2]
    assert source[0] == POD[v]
    assert message[2:] == query(0, "ok.example.com")[2:]
    server.sendto(answer(message, ADDRESSES[v]), source)
    assert client.recv(4_096) == answer(query(0x1234, "ok.example.com"), ADDRESSES[v])
    [learned] = proxy.learner.learned
    assert learned[1:] == (b"\x02ok\x07example\x03com\0", (ADDRESSES[v],))
    flow, _, _, verdict, _ = eventually_sync(lambda: proxy.sink.responses)[0]
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[v]
    addresses = [socket.inet_pton(family, one) for one in (POD[v], RESOLVER[v])]
    assert flow == (socket.IPPROTO_UDP, addresses[0], client.getsockname()[1], addresses[1], 53)
    assert verdict is Verdict.FORWARDED


@FAMILIES
def test_refused_dropped_and_survived(proxy: RunningProxy, v: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    client.send(query(7, "no.example.com"))
    refused = client.recv(4_096)
    assert refused[:2] == b"\x00\x07"
    assert refused[3] & 15 == REFUSED
    client.send(b"nonsense")
    client.send(query(8, "ok") + bytes(4_096))
    client.send(query(9, "bug"))
    client.send(query(10, "ok"))
    message, source = server.recvfrom(4_096)
    server.sendto(answer(message, ADDRESSES[v]), source)
    assert client.recv(4_096)[:2] == b"\x00\x0a"
    assert proxy.counters.malformed_queries == 2
    assert proxy.counters.denied == 1
    assert proxy.counters.mishaps == 1
    proxy.counters.mishaps = 0
    assert proxy.counters.upstreams_opened == 1


@FAMILIES
def test_ids_of_one_client_socket_share_one_upstream_socket(proxy: RunningProxy, v: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    for number in range(50):
        client.send(query(1, f"ok{number}"))  # the same id each time
    messages = [server.recvfrom(4_096) for _ in range(50)]
    assert len({message[:2] for message, _ in messages}) == 50
    assert {source[:2] for _, source in messages} == {client.getsockname()[:2]}
    for message, source in reversed(messages):
        server.sendto(answer(message, ADDRESSES[v]), source)
    answers = [client.recv(4_096) for _ in range(50)]
    assert {one[:2] for one in answers} == {b"\x00\x01"}
    assert sorted(one[12:] for one in answers) == sorted(
        answer(query(1, f"ok{number}"), ADDRESSES[v])[12:] for number in range(50)
    )
    assert proxy.counters.upstreams_opened == 1
    eventually_sync(lambda: proxy.counters.in_flight == 0)


@FAMILIES
def test_two_servers_asked_from_one_client_socket(proxy: RunningProxy, v: int) -> None:
    servers = [proxy.server(v), proxy.server(v, OTHER_RESOLVER[v])]
    client = proxy.stack.enter_context(proxy.network.client(v))
    for number, address in enumerate((RESOLVER[v], OTHER_RESOLVER[v])):
        client.sendto(query(number, f"ok{number}"), (address, 53))
    for number, server in enumerate(servers):
        message, source = server.recvfrom(4_096)
        assert message[2:] == query(0, f"ok{number}")[2:]
        assert source[:2] == client.getsockname()[:2]
        server.sendto(answer(message, ADDRESSES[v]), source)
    found = {client.recvfrom(4_096)[1][0] for _ in range(2)}
    assert found == {RESOLVER[v], OTHER_RESOLVER[v]}


@FAMILIES
def test_answers_of_others_and_to_others_are_ignored(proxy: RunningProxy, v: int) -> None:
    server, other = proxy.server(v), proxy.server(v, OTHER_RESOLVER[v])
    other_port = proxy.server(v, port=5_353)
    client = proxy.client(v)
    client.send(query(1, "ok.example.com"))
    message, source = server.recvfrom(4_096)
    good = answer(message, ADDRESSES[v])
    other.sendto(good, source)
    other_port.sendto(good, source)
    server.sendto(bytes((good[0] ^ 1,)) + good[1:], source)
    server.sendto(answer(message[:2] + query(0, "ok.example.org")[2:], ADDRESSES[v]), source)
    server.sendto(message, source)  # the query itself
    server.sendto(good[:14], source)
    assert silent(client)
    assert (proxy.counters.unexpected_answers, proxy.counters.mismatched_answers) == (1, 3)
    server.sendto(good, source)
    assert client.recv(4_096)[2:] == good[2:]
    assert len(proxy.learner.learned) == 1


@FAMILIES
def test_mixed_case_and_records_nobody_knows_pass_unchanged(proxy: RunningProxy, v: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    options = b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x08\xff\xee\x00\x04abcd"
    sent = with_case(query(3, "ok.example.com", 65_280, more=options, extra=1), "oK.ExAmple.COM")
    client.send(sent)
    message, source = server.recvfrom(4_096)
    assert message[2:] == sent[2:]
    back = message[:2] + b"\x81\x80\0\1\0\0\0\0\0\1" + message[12:]
    server.sendto(back, source)
    assert client.recv(4_096) == sent[:2] + back[2:]


@FAMILIES
@pytest.mark.parametrize("count", [100, 250, 2_000])
def test_answers_larger_than_a_packet(proxy: RunningProxy, v: int, count: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    client.send(query(1, "ok.example.com"))
    message, source = server.recvfrom(4_096)
    big = answer(message, *(number.to_bytes(4, "big") for number in range(count)))
    server.sendto(big, source)
    assert client.recv(65_535)[2:] == big[2:]
    assert proxy.counters.fragmented == 1


@FAMILIES
def test_a_truncated_answer_passes(proxy: RunningProxy, v: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    client.send(query(1, "ok.example.com"))
    message, source = server.recvfrom(4_096)
    server.sendto(answer(message, flags=0x8380), source)
    assert client.recv(4_096)[2] & 2


@FAMILIES
def test_a_closed_port_is_refused_and_silence_is_silence(network: DnsNetwork, v: int) -> None:
    with running(network, forward_seconds=0.2, linger_seconds=0.2) as proxy:
        client = proxy.client(v)
        client.send(query(1, "ok.example.com"))  # no server: ICMP comes back
        assert client.recv(4_096)[3] & 15 == REFUSED
        server = proxy.server(v)
        client.send(query(2, "ok.example.com"))
        message, source = server.recvfrom(4_096)
        eventually_sync(lambda: proxy.counters.timeouts == 1)
        server.sendto(answer(message, ADDRESSES[v]), source)
        assert silent(client)
        eventually_sync(lambda: proxy.counters.upstreams == 0)
        assert proxy.counters.in_flight == 0


@FAMILIES
def test_held_answers_wait_for_the_learner(proxy: RunningProxy, v: int) -> None:
    server, client = proxy.server(v), proxy.client(v)
    proxy.learner.verdict = Released.HELD
    for number in (1, 2):
        client.send(query(number, "ok.example.com"))
        message, source = server.recvfrom(4_096)
        server.sendto(answer(message, ADDRESSES[v]), source)
    eventually_sync(lambda: proxy.counters.held_now == 2)
    assert silent(client)
    proxy.learner.say((1, Released.DROP), (2, Released.NOW))
    proxy.proxy.wake()
    assert client.recv(4_096)[:2] == b"\x00\x02"
    eventually_sync(lambda: (proxy.counters.held_released, proxy.counters.held_dropped) == (1, 1))


@FAMILIES
def test_a_flood_of_one_client_is_capped(network: DnsNetwork, v: int) -> None:
    with running(network, max_in_flight_per_client=20, max_upstreams=8) as proxy:
        server, clients = proxy.server(v), [proxy.client(v) for _ in range(12)]
        for number in range(30):
            clients[0].send(query(number, "ok"))
        refused = [clients[0].recv(4_096) for _ in range(10)]
        assert all(one[3] & 15 == REFUSED for one in refused)
        assert proxy.counters.rejected == 10
        messages = [server.recvfrom(4_096) for _ in range(20)]
        for message, source in messages:
            server.sendto(answer(message, ADDRESSES[v]), source)
        for _ in range(20):
            clients[0].recv(4_096)
        for client in clients:  # more client sockets than upstream sockets: idle ones make room
            client.send(query(1, "ok"))
            message, source = server.recvfrom(4_096)
            server.sendto(answer(message, ADDRESSES[v]), source)
            client.recv(4_096)
        assert proxy.counters.upstreams == 8
        assert proxy.counters.upstreams_evicted == 4
        for client in clients[:8]:
            client.send(query(2, "ok"))
            server.recvfrom(4_096)
        clients[8].send(query(3, "ok"))  # all eight wait for answers
        assert clients[8].recv(4_096)[3] & 15 == REFUSED
        assert proxy.counters.upstreams_refused == 1


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """All but so many of this process's descriptors are in use."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + count + 1, before[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@FAMILIES
def test_without_descriptors_idle_paths_make_room(network: DnsNetwork, v: int) -> None:
    with running(network) as proxy:
        server, clients = proxy.server(v), [proxy.client(v) for _ in range(6)]
        with descriptors_left(3):
            for client in clients:
                client.send(query(1, "ok"))
                message, source = server.recvfrom(4_096)
                server.sendto(answer(message, ADDRESSES[v]), source)
                assert client.recv(4_096)[3] & 15 == 0
            assert proxy.counters.upstreams_evicted == 3
            for client in clients[3:]:
                client.send(query(2, "ok"))
                server.recvfrom(4_096)
            clients[0].send(query(3, "ok"))  # all descriptors wait for answers
            assert clients[0].recv(4_096)[3] & 15 == REFUSED
            assert proxy.counters.forward_errors == 1
        clients[0].send(query(4, "ok"))
        assert server.recvfrom(4_096)[0][2:] == query(4, "ok")[2:]
        assert proxy.counters.mishaps == 0


def test_the_next_process_has_the_port_and_beats_while_it_waits(network: DnsNetwork) -> None:
    with running(network) as first:
        with (
            pytest.raises(AssertionError, match="Address already in use"),
            running(network, bind_seconds=0.1),
        ):
            pass
        client = first.client(4)
        client.send(query(1, "no"))
        client.recv(4_096)
        eventually_sync(lambda: len(first.beats) > 1)
    with running(network) as second:
        client = second.client(4)
        client.send(query(1, "no"))
        client.recv(4_096)


def test_descriptors_and_namespaces_are_given_back(network: DnsNetwork) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with running(network) as proxy:
        server, client = proxy.server(4), proxy.client(4)
        client.send(query(1, "ok"))
        server.recv(4_096)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert inside(network.node, lambda: socket.if_nametoindex("to-pod")) > 0
