"""Request and response of one byte over one TCP connection, as netperf's TCP_RR. Standard library only.

python tcp_rr.py server PORT              prints READY, serves one connection after the other
python tcp_rr.py client HOST PORT SECONDS prints the number of transactions per second
"""

from __future__ import annotations

import socket
import sys
import time


def server(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)) as listener:
        print("READY", flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while data := connection.recv(1):
                    connection.sendall(data)


def client(host: str, port: int, seconds: float) -> None:
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            connection.sendall(b"x")
            connection.recv(1)
            count += 1
    print(count / passed)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        server(int(sys.argv[2]))
    else:
        client(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
