"""The pods' HTTP server answers over both families."""

from __future__ import annotations

import threading
import urllib.request

from axoneme.lab.webserver import DualStackServer, handler_for


def test_the_server_says_the_pods_name_over_both_families() -> None:
    with DualStackServer(("::", 0), handler_for("backend")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            port = server.server_address[1]
            for host in ("127.0.0.1", "[::1]"):
                with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as answer:
                    assert answer.read() == b"hello from backend\n"
        finally:
            server.shutdown()
            thread.join()
