"""What `axoneme health status` prints, and when it is content."""

from __future__ import annotations

import pytest

from axoneme.api.node.v1 import node_pb2
from shim.health.cli import _rows, _well


def answer(address: str, error: str) -> node_pb2.GetHealthResponse:
    path = node_pb2.HealthPath(
        address=address, target="node", kind="http", reachable=not error, seconds=0.0123, error=error
    )
    return node_pb2.GetHealthResponse(nodes=[node_pb2.NodeHealth(node="east/n2", paths=[path])])


@pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8::2"])
def test_rows_say_who_reaches_whom(address: str) -> None:
    good, bad = answer(address, ""), answer(address, "no answer within 3 s")
    assert _rows("n1", good) == [("n1", "east/n2", "node", address, "http", True, "12.3", "")]
    assert _rows("n1", bad)[0][-1] == "no answer within 3 s"
    assert _well(good)
    assert not _well(bad)
