"""The demo and its story, over IPv4 and IPv6, with the flows that must be seen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.policies import ALLOW_FRONTEND, DENY_FRONTEND, SAME_NODE_EGRESS, SAME_NODE_INGRESS
from tests.e2e.running import Running
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]


def seen(lab: Running, source: str, target: str, verdict: str, version: int) -> dict[str, Any]:
    """The newest policy verdict between two pods; it follows its packet by a moment."""
    addresses = {"source": lab.ip(source, version), "destination": lab.ip(target, version)}

    def found() -> dict[str, Any] | None:
        for flow in reversed(lab.flows("--last", "20", "--type", "policy-verdict")):
            ip = flow.get("IP", {})
            if all(ip.get(key) == value for key, value in addresses.items()) and flow["verdict"] == verdict:
                return flow
        return None

    flow = eventually_sync(found, message=f"a {verdict} flow {source} -> {target} over IPv{version}")
    assert flow is not None
    return flow


def test_the_demo_comes_out_as_told(lab: Running) -> None:
    output = lab.axoneme("lab", "demo")
    assert "hello from backend" in output
    assert "The lab stays up. Try:" in output


def test_the_demo_of_names_comes_out_as_told(lab: Running) -> None:
    output = lab.axoneme("lab", "demo", "--chapter", "dns")
    assert "status: REFUSED" in output
    assert "The lab stays up. Try:" in output


@pytest.mark.parametrize("version", [4, 6])
def test_the_story(lab: Running, version: int) -> None:
    assert lab.reaches("frontend", "backend", version=version)
    assert lab.reaches("batch", "backend", version=version)
    seen(lab, "batch", "backend", "FORWARDED", version)

    lab.apply(ALLOW_FRONTEND)
    assert lab.reaches("frontend", "backend", version=version)
    assert not lab.reaches("batch", "backend", version=version)
    assert seen(lab, "batch", "backend", "DROPPED", version)["drop_reason_desc"] == "POLICY_DENIED"

    lab.apply(DENY_FRONTEND)
    assert not lab.reaches("frontend", "backend", version=version)
    assert seen(lab, "frontend", "backend", "DROPPED", version)["drop_reason_desc"] == "POLICY_DENY"
    earlier = seen(lab, "batch", "backend", "DROPPED", version)
    names = [policy["name"] for policy in earlier["ingress_denied_by"]]
    assert names == ["allow-frontend"], "a flow keeps the policies of its time"

    lab.delete("deny-frontend")
    assert lab.reaches("frontend", "backend", version=version)
    flow = seen(lab, "frontend", "backend", "FORWARDED", version)
    assert [policy["name"] for policy in flow["ingress_allowed_by"]] == ["allow-frontend"]


@pytest.mark.parametrize("version", [4, 6])
def test_egress_of_the_sender_never_satisfies_ingress_on_the_same_node(lab: Running, version: int) -> None:
    assert lab.reaches("frontend", "backend-near", version=version)
    lab.apply(SAME_NODE_EGRESS)
    assert lab.reaches("frontend", "backend-near", version=version)
    assert not lab.reaches("frontend", "backend", version=version)
    lab.apply(SAME_NODE_INGRESS)
    assert not lab.reaches("frontend", "backend-near", version=version)
    assert lab.reaches("batch", "backend-near", version=version)
