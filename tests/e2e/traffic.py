"""Senders and receivers that tests run inside pods. Standard library only; each ends when its input ends.

echo-server PORT            answers every TCP byte with itself; prints READY when it listens
greet-server NAME PORT...   answers every connection as an HTTP server, with the line "hello from NAME"
echo-client HOST PORT       sends a numbered line, waits for its echo, and so on; at each line of input and
                            at the end prints the number of echoes; exits 1 when the connection breaks
udp-sink PORT               at each line of input and at the end prints a JSON object: packets by source
udp-flood HOST PORT RATE    sends RATE packets a second; prints their number at the end
udp-send HOST PORT COUNT    sends that many packets as fast as possible and ends
mirror NAME PORT            answers every TCP connection and UDP packet with "NAME <address of the client>"
ask KIND HOST PORT COUNT SECONDS
                            asks a mirror (tcp, udp) or an echo server (echo) that often, each time from a new
                            socket; prints each answer and whom the socket is connected to, or "none" after
                            SECONDS without an answer
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from collections import Counter

ECHO_SECONDS = 10.0
SO_RCVBUFFORCE = 33  # beyond the system's limit: what a busy machine reads late is not lost


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def echo_server(port: int) -> int:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("READY", flush=True)
        sockets: list[socket.socket] = [server]
        while True:
            readable = select.select([sys.stdin, *sockets], [], [])[0]
            if sys.stdin in readable and not sys.stdin.readline():
                return 0
            for ready in (ready for ready in readable if isinstance(ready, socket.socket)):
                if ready is server:
                    sockets.append(server.accept()[0])
                elif data := ready.recv(65_536):
                    ready.sendall(data)
                else:
                    sockets.remove(ready)
                    ready.close()


def greet_server(name: str, ports: list[int]) -> int:
    body = f"hello from {name}\n".encode()
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    servers = [
        socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in ports
    ]
    print("READY", flush=True)
    readers: list[socket.socket] = [*servers]
    while True:
        readable = select.select([sys.stdin, *readers], [], [])[0]
        if sys.stdin in readable and not sys.stdin.readline():
            return 0
        for ready in (ready for ready in readable if isinstance(ready, socket.socket)):
            if ready in servers:
                readers.append(ready.accept()[0])
                continue
            with contextlib.suppress(OSError):
                if ready.recv(65_536):
                    ready.sendall(answer)
            readers.remove(ready)
            ready.close()


def echo_client(host: str, port: int) -> int:
    echoes = 0
    with (
        socket.create_connection((host, port), timeout=ECHO_SECONDS) as connection,
        connection.makefile("rwb") as file,
    ):
        print("READY", flush=True)
        while True:
            if select.select([sys.stdin], [], [], 0.002)[0]:
                line = sys.stdin.readline()
                print(echoes, flush=True)
                if not line:
                    return 0
            text = b"%d\n" % echoes
            file.write(text)
            file.flush()
            if file.readline() != text:
                return 1
            echoes += 1


def udp_sink(port: int) -> int:
    packets: Counter[str] = Counter()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sink:
        sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sink.bind(("::", port))
        print("READY", flush=True)
        while True:
            readable = select.select([sys.stdin, sink], [], [])[0]
            if sink in readable:
                source = sink.recvfrom(2048)[1][0]
                packets[source.removeprefix("::ffff:")] += 1
                continue
            line = sys.stdin.readline()
            print(json.dumps(packets), flush=True)
            if not line:
                return 0


def udp_flood(host: str, port: int, per_second: int) -> int:
    sent, begun = 0, time.monotonic()
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sender:
        print("READY", flush=True)
        while not select.select([sys.stdin], [], [], 0.002)[0]:
            while sent < (time.monotonic() - begun) * per_second:
                sender.sendto(b"flood", (host, port))
                sent += 1
    print(sent, flush=True)
    return 0


def udp_send(host: str, port: int, count: int) -> int:
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"send", (host, port))
    return 0


def mirror(name: str, port: int) -> int:
    with (
        socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind(("::", port))
        print("READY", flush=True)
        while True:
            readable = select.select([sys.stdin, server, datagrams], [], [])[0]
            if sys.stdin in readable and not sys.stdin.readline():
                return 0
            if server in readable:
                connection, client = server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(said(name, client))
            if datagrams in readable:
                client = datagrams.recvfrom(2048)[1]
                datagrams.sendto(said(name, client), client)


def said(name: str, client: tuple[object, ...]) -> bytes:
    return f"{name} {str(client[0]).removeprefix('::ffff:')}\n".encode()


def ask(kind: str, host: str, port: int, count: int, seconds: float) -> int:
    for _ in range(count):
        try:
            print(*asked(kind, host, port, seconds), flush=True)
        except OSError as error:
            print("none", type(error).__name__, flush=True)
    return 0


def asked(kind: str, host: str, port: int, seconds: float) -> tuple[str, str]:
    with socket.socket(family_of(host), socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as asking:
        asking.settimeout(seconds)
        asking.connect((host, port))
        if kind != "tcp":
            asking.send(b"echo")
        answer = asking.recv(2048).decode().strip()
        return answer, str(asking.getpeername()[0])


def main() -> int:
    name, *words = sys.argv[1:]
    match name:
        case "echo-server":
            return echo_server(int(words[0]))
        case "greet-server":
            return greet_server(words[0], [int(word) for word in words[1:]])
        case "echo-client":
            return echo_client(words[0], int(words[1]))
        case "udp-sink":
            return udp_sink(int(words[0]))
        case "udp-flood":
            return udp_flood(words[0], int(words[1]), int(words[2]))
        case "udp-send":
            return udp_send(words[0], int(words[1]), int(words[2]))
        case "mirror":
            return mirror(words[0], int(words[1]))
        case "ask":
            return ask(words[0], words[1], int(words[2]), int(words[3]), float(words[4]))
    return 2


if __name__ == "__main__":
    sys.exit(main())
