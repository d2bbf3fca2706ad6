"""What a process does with sockets, asked for by another: one JSON line per call and answer.

python socketcalls.py        calls of this module's functions, as [name, *arguments], until its input ends

Runs alone, inside a network namespace and a cgroup of the test. Every server answers with its own address.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time
from typing import Any

TIMEOUT_SECONDS = 5.0
open_sockets: list[socket.socket] = []
poured: dict[int, Any] = {}  # bytes and hash so far, by socket


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def made(kind: socket.SocketKind, address: str) -> socket.socket:
    one = socket.socket(family_of(address), kind)
    one.settimeout(TIMEOUT_SECONDS)
    return one


def listen(address: str, port: int) -> int:
    """TCP and UDP servers; returns the port."""
    stream = socket.create_server((address, port), family=family_of(address), backlog=512)
    datagram = socket.socket(family_of(address), socket.SOCK_DGRAM)
    datagram.bind((address, stream.getsockname()[1]))
    name = address.encode()
    threading.Thread(target=answer_streams, args=(stream, name), daemon=True).start()
    threading.Thread(target=answer_datagrams, args=(datagram, name), daemon=True).start()
    return int(stream.getsockname()[1])


def answer_streams(listener: socket.socket, name: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer_stream, args=(connection, name), daemon=True).start()


def answer_stream(connection: socket.socket, name: bytes) -> None:
    with connection:
        while connection.recv(100):
            connection.sendall(name)


def answer_datagrams(one: socket.socket, name: bytes) -> None:
    while True:
        _, peer = one.recvfrom(100)
        one.sendto(name, peer)


def stream(address: str, port: int) -> dict[str, Any]:
    """One TCP connection: who answered, and whom it shows as its peer."""
    with made(socket.SOCK_STREAM, address) as one:
        try:
            one.connect((address, port))
        except OSError as error:
            return {"errno": error.errno}
        one.sendall(b"?")
        return {"server": one.recv(100).decode(), "peer": one.getpeername()[:2]}


def long_stream(address: str, port: int, count: int) -> dict[str, Any]:
    """Questions and answers over one TCP connection."""
    with made(socket.SOCK_STREAM, address) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.connect((address, port))
        answers = []
        for _ in range(count):
            one.sendall(b"?")
            answers.append(one.recv(100).decode())
        peer = one.getpeername()[:2]
        one.shutdown(socket.SHUT_WR)
        while one.recv(100):
            pass
    (server,) = set(answers)
    return {"server": server, "answers": len(answers), "peer": peer}


def datagram(address: str, port: int) -> dict[str, Any]:
    """A connected UDP socket."""
    with made(socket.SOCK_DGRAM, address) as one:
        try:
            one.connect((address, port))
        except OSError as error:
            return {"errno": error.errno}
        return {"peer": one.getpeername()[:2], **asked(one)}


def loose_datagram(address: str, port: int) -> dict[str, Any]:
    """A UDP socket that is not connected."""
    with made(socket.SOCK_DGRAM, address) as one:
        return sent(one, address, port)


def datagram_from(source_port: int, address: str, port: int) -> dict[str, Any]:
    """A UDP socket with a port of our choice."""
    with made(socket.SOCK_DGRAM, address) as one:
        one.bind(("", source_port))
        return sent(one, address, port)


def sent(one: socket.socket, address: str, port: int) -> dict[str, Any]:
    try:
        one.sendto(b"?", (address, port))
    except OSError as error:
        return {"errno": error.errno}
    return received(one)


def asked(one: socket.socket) -> dict[str, Any]:
    try:
        one.send(b"?")
        return received(one)
    except OSError as error:
        return {"errno": error.errno}


def received(one: socket.socket) -> dict[str, Any]:
    data, shown = one.recvfrom(100)
    return {"server": data.decode(), **({"from": shown[:2]} if shown else {})}


def keep(kind: str, address: str, port: int) -> int:
    """A socket that stays open, by number; `kind`: stream, datagram (both connected), loose."""
    one = made(socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM, address)
    if kind != "loose":
        one.connect((address, port))
    open_sockets.append(one)
    return len(open_sockets) - 1


def ask(number: int) -> dict[str, Any]:
    one = open_sockets[number]
    return {"peer": one.getpeername()[:2], **asked(one)}


def send_to(number: int, address: str, port: int) -> dict[str, Any]:
    return sent(open_sockets[number], address, port)


def close_kept() -> None:
    poured.clear()
    while open_sockets:
        open_sockets.pop().close()


def streams(address: str, port: int, count: int) -> dict[str, Any]:
    """Connections one after the other: how many went to whom, and what failed."""
    servers: dict[str, int] = {}
    failures = []
    for _ in range(count):
        answer = stream(address, port)
        if "errno" in answer or answer["peer"] != (address, port):
            failures.append(answer)
        else:
            servers[answer["server"]] = servers.get(answer["server"], 0) + 1
    return {"servers": servers, "failures": failures}


def open_listener(address: str, port: int) -> int:
    """A listening socket that nobody accepts from yet, by number."""
    one = socket.create_server((address, port), family=family_of(address), backlog=512)
    one.settimeout(TIMEOUT_SECONDS)
    open_sockets.append(one)
    return len(open_sockets) - 1


def accept(number: int) -> int:
    """The next connection of a listener, by number."""
    connection, _ = open_sockets[number].accept()
    connection.settimeout(TIMEOUT_SECONDS)
    open_sockets.append(connection)
    return len(open_sockets) - 1


def say(number: int, text: str) -> dict[str, Any]:
    try:
        open_sockets[number].sendall(text.encode())
    except OSError as error:
        return {"errno": error.errno}
    return {}


def hear(number: int, size: int, timeout_seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """Up to `size` bytes; `text` ends where the connection does, `late` says that nothing more came."""
    heard = b""
    open_sockets[number].settimeout(timeout_seconds)
    try:
        while len(heard) < size and (data := open_sockets[number].recv(size - len(heard))):
            heard += data
    except TimeoutError:
        return {"text": heard.decode(), "late": True}
    return {"text": heard.decode()}


def finish(number: int) -> None:
    open_sockets[number].shutdown(socket.SHUT_WR)


def collect(number: int, slowly: bool) -> dict[str, Any]:
    """Reads a connection to its end: bytes and their hash."""
    digest, total = hashlib.sha256(), 0
    rng = random.Random(number)
    while data := open_sockets[number].recv(rng.choice((1, 100, 5_000, 1 << 16)) if slowly else 1 << 16):
        digest.update(data)
        total += len(data)
    return {"bytes": total, "hash": digest.hexdigest()}


def pour(number: int, total: int, last: bool = True) -> dict[str, Any]:
    """Sends `total` bytes in messages of all sizes, then the end: bytes and hash of all that was poured."""
    digest, before = poured.get(number, (hashlib.sha256(), 0))
    left = total
    rng = random.Random(before + total)
    while left:
        data = rng.randbytes(min(left, rng.choice((1, 7, 500, 4_096, 30_000, 100_000))))
        open_sockets[number].sendall(data)
        digest.update(data)
        left -= len(data)
    poured[number] = (digest, before + total)
    if last:
        finish(number)
    return {"bytes": before + total, "hash": digest.hexdigest()}


def pour_freely(number: int, total: int) -> int:
    """Sends without waiting until the kernel takes no more: bytes that it took."""
    taken, block = 0, bytes(65_536)
    open_sockets[number].setblocking(False)
    while taken < total:
        try:
            taken += open_sockets[number].send(block)
        except BlockingIOError:
            break
    return taken


def greet(address: str, port: int, count: int) -> int:
    """Connections that send at once, in two parts, and end: how many."""
    for number in range(count):
        with made(socket.SOCK_STREAM, address) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.connect((address, port))
            one.sendall(b"%05d-" % number)
            one.sendall(b"and-more")
    return count


def greetings(number: int, count: int) -> list[str]:
    """What `count` connections to a listener said, each read to its end."""
    heard = []
    for _ in range(count):
        connection, _ = open_sockets[number].accept()
        with connection:
            connection.settimeout(TIMEOUT_SECONDS)
            text = b""
            while data := connection.recv(100):
                text += data
            heard.append(text.decode())
    return heard


def exchange(number: int, size: int, seconds: float) -> float:
    """Requests and responses of `size` bytes on a connection, then its end: how many a second."""
    one, data, count = open_sockets[number], bytes(size), 0
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        one.sendall(data)
        take(one, size)
        count += 1
    finish(number)
    return count / passed


def echo(number: int, size: int) -> None:
    one, data = open_sockets[number], bytes(size)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while take(one, size):
        one.sendall(data)


def take(one: socket.socket, size: int) -> bool:
    """Reads `size` bytes; False at the end of the connection."""
    while size:
        data = one.recv(size)
        if not data:
            return False
        size -= len(data)
    return True


def stream_for(number: int, size: int, seconds: float) -> None:
    """Messages of `size` bytes for a while, then the end."""
    one, data = open_sockets[number], bytes(size)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        one.sendall(data)
    finish(number)


def drain(number: int) -> float:
    """Reads a connection to its end: Gbit/s from the first byte on."""
    one, total = open_sockets[number], len(open_sockets[number].recv(1 << 18))
    begun = time.perf_counter()
    while data := one.recv(1 << 18):
        total += len(data)
    return total * 8 / (time.perf_counter() - begun) / 1e9


def connect_ns(address: str, port: int, count: int) -> float:
    """Processor time of one connect() of a UDP socket, which may be repeated: mean of `count`."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as one:
        target = (address, port)
        one.connect(("127.0.0.1" if one.family == socket.AF_INET else "::1", 9))
        begun = time.thread_time_ns()
        for _ in range(count):
            one.connect(target)
        return (time.thread_time_ns() - begun) / count


def netns_cookie() -> int:
    """SO_NETNS_COOKIE (Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder)


def serve() -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(globals()[name](*arguments)), flush=True)


if __name__ == "__main__":
    serve()
