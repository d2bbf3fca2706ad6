"""Settings of the service: what options mean, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.errors import InvalidArgument
from services.policy.config import PolicyConfig
from services.policy.main import run
from services.policy.settings import EnforcementMode, PolicySettings


def test_defaults() -> None:
    """The options and the settings agree on what is usual."""
    assert PolicyConfig().settings() == PolicySettings()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"policy_enforcement": "always"}, {"mode": EnforcementMode.ALWAYS}),
        ({"policy_enforcement": "never"}, {"mode": EnforcementMode.NEVER}),
        ({"allow_localhost": "policy"}, {"allow_localhost": False}),
        ({"allow_localhost": "auto"}, {"allow_localhost": True}),
        ({"policy_cidr_match_mode": ("nodes",)}, {"cidr_match_nodes": True}),
        ({"policy_default_local_cluster": True}, {"default_local_cluster": True}),
        ({"enable_node_selector_labels": True}, {"node_labels": True}),
        ({"enable_host_firewall": True}, {"host_firewall": True}),
        ({"enable_ipv6": False}, {"families": frozenset({"ipv4"})}),
        ({"enable_ipv4": False}, {"families": frozenset({"ipv6"})}),
        ({"cluster_name": "east"}, {"cluster_name": "east"}),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each option moves one setting."""
    assert PolicyConfig(**options).settings() == PolicySettings(**expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"policy_enforcement": "sometimes"},
            "'sometimes' is not known; use one of default",
        ),
        ({"allow_localhost": "yes"}, "allow_localhost: 'yes' is not known; use one of always, auto, policy"),
        ({"policy_cidr_match_mode": ("nodes", "pods")}, "policy_cidr_match_mode: 'pods' is not known"),
        ({"enable_ipv4": False, "enable_ipv6": False}, "enable_ipv4: is off and so is enable_ipv6"),
    ],
)
async def test_refusals(options: dict[str, Any], text: str) -> None:
    """By name, before anything is connected."""
    with pytest.raises(InvalidArgument, match=text):
        PolicyConfig(**options).settings()
    with pytest.raises(InvalidArgument, match=text):
        await run(PolicyConfig(etcd_endpoints=("192.0.2.1:1",), **options))


async def test_a_store_is_needed() -> None:
    """Without etcd there is nothing to serve."""
    with pytest.raises(InvalidArgument, match="etcd_endpoints"):
        await run(PolicyConfig())
