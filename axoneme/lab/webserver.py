"""The HTTP server of a laboratory's pod: answers every GET with the pod's name, over IPv4 and IPv6.

Run as `python -m axoneme.lab.webserver --name NAME --port PORT`, for HTTPS with `--certificate FILE KEY`.
Standard library only: it starts many times.
"""

from __future__ import annotations

import argparse
import socket
import ssl
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class DualStackServer(ThreadingHTTPServer):
    """Listens on the IPv6 wildcard, which takes IPv4 too."""

    address_family = socket.AF_INET6
    daemon_threads = True
    # Connections that wait for a busy machine are not to look like packets that were dropped.
    request_queue_size = 1024

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def handler_for(name: str) -> type[BaseHTTPRequestHandler]:
    """A handler class that answers with this name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"hello from {name}\n".encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", nargs=2, metavar=("FILE", "KEY"))
    arguments = parser.parse_args()
    server = DualStackServer(("::", arguments.port), handler_for(arguments.name))
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
