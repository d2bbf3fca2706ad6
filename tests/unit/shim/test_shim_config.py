"""What a node's configuration refuses, and how a stream's failures are told."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.errors import InvalidArgument
from axoneme.lib.intent import Failure
from axoneme.lib.intentstream import StreamState
from shim.config import ShimConfig
from shim.status import MAX_NAMED, stream_problems


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observer_listen", "4244"),
        ("observer_listen", "0.0.0.0:x"),
        ("observer_listen", "0.0.0.0:65536"),
        ("certificate_names", ("*.hubble-relay.cilium.io",)),
        ("certificate_names", ("=user/reader/stock",)),
        ("internal_ips", ("node1",)),
    ],
)
def test_bad_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=field):
        ShimConfig(node_name="n1", **{field: value})


def test_certificate_names_are_roles_of_stock_clients() -> None:
    assert ShimConfig(node_name="n1").certificate_names == ()
    ShimConfig(node_name="n1", certificate_names=("*.hubble-relay.cilium.io=user/reader/stock",))


def test_failures_are_named_up_to_a_limit_and_then_counted() -> None:
    failures = {
        f"subject:{number}": Failure("UNAVAILABLE", "X", "no room") for number in range(MAX_NAMED + 3)
    }
    state = StreamState(
        name="SubscribeEndpointPolicies",
        synced=True,
        stale_seconds=0.0,
        epoch=1,
        revision=1,
        error="",
        failures=failures,
    )
    problems = stream_problems(state)
    assert len(problems) == MAX_NAMED + 1
    assert "3 more resources" in problems[-1]
