"""The DNS proxy of tests/dnsnetwork.py in a thread, with what it needs of clients and servers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from services.fqdn.model import ProxySettings
from services.fqdn.proxy.counters import Counters
from services.fqdn.proxy.loop import Proxy
from tests.bpf.namespaces import inside
from tests.dnsmessages import NameJudge, NoteLearner, NoteSink, framed
from tests.dnsnetwork import RESOLVER, DnsNetwork

QUICK = ProxySettings(port=53, listen_addresses=("0.0.0.0", "::"), bind_seconds=5)
STREAM = socket.SOCK_STREAM


@dataclass
class RunningProxy:
    """A proxy and the sockets that tests opened around it."""

    network: DnsNetwork
    proxy: Proxy
    learner: NoteLearner
    sink: NoteSink
    stack: ExitStack
    beats: list[None] = field(default_factory=list)

    @property
    def counters(self) -> Counters:
        return self.proxy.counters

    def client(self, v: int) -> socket.socket:
        """A UDP socket of the pod, connected to the resolver: it takes answers of nobody else."""
        one = self.stack.enter_context(self.network.client(v))
        one.connect((RESOLVER[v], 53))
        return one

    def server(self, v: int, address: str = "", port: int = 53) -> socket.socket:
        return self.stack.enter_context(self.network.server(v, address=address, port=port))

    def listener(self, v: int) -> socket.socket:
        one = self.stack.enter_context(self.network.server(v, STREAM))
        one.listen()
        return one

    def connection(self, v: int) -> socket.socket:
        one = self.stack.enter_context(self.network.client(v, STREAM))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.connect((RESOLVER[v], 53))
        return one

    def accepted(self, listener: socket.socket) -> socket.socket:
        one, _ = listener.accept()
        one.settimeout(5)
        return self.stack.enter_context(one)


@contextmanager
def running(network: DnsNetwork, **settings: object) -> Iterator[RunningProxy]:
    """A proxy with these settings."""
    stop = os.eventfd(0)
    learner, sink, beats = NoteLearner(), NoteSink(), list[None]()
    opened, errors = threading.Event(), list[BaseException]()
    proxies: list[Proxy] = []

    def serve() -> None:
        proxy = Proxy(
            replace(QUICK, **settings),  # type: ignore[arg-type]
            NameJudge(),
            learner,
            sink,
            stop=stop,
            heartbeat=lambda: beats.append(None),
        )
        try:
            proxies.append(proxy)
            proxy.open()
            opened.set()
            proxy.run()
        except BaseException as error:  # noqa: BLE001  raised again by the test's thread
            errors.append(error)
        finally:
            opened.set()
            proxy.close()

    thread = threading.Thread(target=lambda: inside(network.node, serve))
    thread.start()
    assert opened.wait(10)
    with ExitStack() as stack:
        try:
            assert not errors, errors
            yield RunningProxy(network, proxies[0], learner, sink, stack, beats)
        finally:
            os.eventfd_write(stop, 1)
            thread.join(10)
            os.close(stop)
    assert not thread.is_alive()
    assert not errors, errors


def received(one: socket.socket) -> bytes:
    """The next message of a TCP connection."""
    return exactly(one, int.from_bytes(exactly(one, 2), "big"))


def exactly(one: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        data = one.recv(count - len(found))
        assert data, "the connection ended"
        found += data
    return found


def sent(one: socket.socket, *messages: bytes) -> None:
    one.sendall(b"".join(framed(message) for message in messages))


def silent(one: socket.socket, seconds: float = 0.1) -> bool:
    """Whether nothing comes for a while."""
    one.settimeout(seconds)
    try:
        one.recv(65_535)
    except TimeoutError:
        return True
    finally:
        one.settimeout(5)
    return False
