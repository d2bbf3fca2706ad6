"""What the policy engine decides, on real connections over IPv4 and IPv6."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.policy.cidrlabels import cidr_label
from shim.maps import layout
from tests.e2e import enginepolicies as written
from tests.e2e.outside import ELSEWHERE, EXCEPTED, EXCEPTIONS, INSIDE, OTHER_PREFIXES, PREFIXES, outside
from tests.e2e.policies import ALLOW_FRONTEND, ALLOW_NEWCOMER
from tests.e2e.probes import FIRST_PACKET_SECONDS, Way, expect, greeting, new_pod, party, traffic_in
from tests.e2e.running import Running
from tests.e2e.test_faults import ask, ready
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]


@pytest.fixture(scope="module")
def machine(laboratory_of_the_session: Running) -> Iterator[None]:
    with outside(laboratory_of_the_session):
        yield


def soon(*, passes: Sequence[Way] = (), stops: Sequence[Way] = ()) -> None:
    """The ways come out like this within a while."""

    def as_wanted() -> bool:
        expect(passes=passes, stops=stops, seconds=FIRST_PACKET_SECONDS)
        return True

    eventually_sync(as_wanted)


def wait_denied(lab: Running, kind: str, source: str, target: str, *, by: str) -> dict[str, Any]:
    """The newest verdict of a policy that denies, DROPPED or AUDIT; it follows its packet by a moment."""
    ends = {"source": source, "destination": target}

    def found() -> dict[str, Any] | None:
        flows = lab.flows("--last", "20", "--verdict", kind, "--type", "policy-verdict", "--ip", source)
        for flow in reversed(flows):
            policies = flow.get("ingress_denied_by", []) + flow.get("egress_denied_by", [])
            if ends.items() <= flow["IP"].items() and [one["name"] for one in policies] == [by]:
                return dict(flow)
        return None

    flow = eventually_sync(found, message=f"a flow {source} -> {target} with {kind} by {by}")
    assert flow is not None
    return flow


# --- addresses outside the cluster


@pytest.mark.usefixtures("machine")
def test_a_prefix_is_told_apart_for_those_whose_policy_names_it(lab: Running) -> None:
    frontend, near, batch = (party(lab, name) for name in ("frontend", "backend-near", "batch"))
    before = lab.ipcache("node1")
    lab.in_force(written.EGRESS_WORLD)
    expect(passes=[(near, INSIDE), (near, EXCEPTED)], stops=[(near, frontend)])
    lab.in_force(written.EGRESS_EXCEPT)
    numbers = dict(lab.ipcache("node1") - before)
    assert len(set(numbers.values())) == len(numbers) == 4, numbers
    expect(
        passes=[
            (frontend, INSIDE),
            *((pod, where) for pod in (near, batch) for where in (INSIDE, EXCEPTED, ELSEWHERE)),
        ],
        stops=[(frontend, EXCEPTED), (frontend, ELSEWHERE)],
    )
    for version in (0, 1):
        flow = wait_denied(lab, "DROPPED", frontend.ips[version], EXCEPTED.ips[version], by="out-except")
        assert str(cidr_label(EXCEPTIONS[version])) in str(flow["destination"]["labels"])
    lab.delete("out-except")
    soon(passes=[(frontend, EXCEPTED), (frontend, ELSEWHERE), (near, EXCEPTED)])
    eventually_sync(lambda: lab.ipcache("node1") == before, message="the prefixes are forgotten")


@pytest.mark.usefixtures("machine")
def test_a_denied_prefix_stays_denied_inside_a_broader_allowed_one(lab: Running) -> None:
    frontend = party(lab, "frontend")
    lab.in_force(written.EGRESS_DENIED_PREFIX)
    expect(passes=[(frontend, INSIDE), (frontend, ELSEWHERE)], stops=[(frontend, EXCEPTED)])
    # A prefix never selects a pod.
    expect(stops=[(frontend, party(lab, "backend"))])


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("version", [4, 6])
def test_an_open_connection_is_cut_when_its_prefix_is_denied(lab: Running, version: int) -> None:
    source, target = (one.ips[version == 6] for one in (party(lab, "frontend"), EXCEPTED))
    with (
        ready(traffic_in(EXCEPTED.netns, "echo-server", "9000")),
        ready(lab.python("frontend", "echo-client", target, "9000")) as client,
    ):
        eventually_sync(lambda: int(ask(client)) > 0, message="the first echo")
        lab.in_force(written.EGRESS_DENIED_PREFIX)
        wait_denied(lab, "DROPPED", source, target, by="out-denied")
        client.kill()  # it would wait for an echo that never comes


@pytest.mark.usefixtures("machine")
def test_a_changed_cidr_group_changes_what_its_users_reach(lab: Running) -> None:
    frontend = party(lab, "frontend")
    lab.in_force(written.EGRESS_GROUPS)
    expect(stops=[(frontend, INSIDE), (frontend, ELSEWHERE)])
    lab.store(written.GROUP_INSIDE)
    soon(passes=[(frontend, INSIDE), (frontend, EXCEPTED)], stops=[(frontend, ELSEWHERE)])
    lab.store(written.GROUP_ELSEWHERE)
    soon(passes=[(frontend, ELSEWHERE)], stops=[(frontend, INSIDE), (frontend, EXCEPTED)])
    known = {prefix for prefix, _ in lab.ipcache("node1")}
    assert known >= {*OTHER_PREFIXES}
    eventually_sync(
        lambda: {prefix for prefix, _ in lab.ipcache("node1")}.isdisjoint(PREFIXES),
        message="the old prefixes are forgotten",
    )


@pytest.mark.usefixtures("machine")
def test_senders_outside_are_told_apart_by_prefix(lab: Running) -> None:
    backend, near = party(lab, "backend"), party(lab, "backend-near")
    lab.in_force(written.INGRESS_PREFIX)
    expect(
        passes=[(INSIDE, backend), (INSIDE, near), (EXCEPTED, near), (ELSEWHERE, near)],
        stops=[(EXCEPTED, backend), (ELSEWHERE, backend), (party(lab, "frontend"), backend)],
    )


# --- other kinds of objects


def test_a_cluster_wide_policy_denies_and_leaves_the_rest_open(lab: Running) -> None:
    frontend, batch, backend, near = (
        party(lab, name) for name in ("frontend", "batch", "backend", "backend-near")
    )
    lab.in_force(written.CLUSTER_WIDE)
    expect(
        passes=[(frontend, backend), (frontend, near), (near, backend)],
        stops=[(batch, backend), (batch, near)],
    )


def test_tiers_decide_in_order_over_a_network_policy(lab: Running) -> None:
    frontend, batch, backend = (party(lab, name) for name in ("frontend", "batch", "backend"))
    with greeting("backend", backend.netns, 8081):
        expect(passes=[(frontend, backend, 8081)])
        lab.in_force(written.NETWORK_POLICY)
        expect(passes=[(frontend, backend)], stops=[(batch, backend), (frontend, backend, 8081)])
    lab.in_force(written.ADMIN_DENY)
    expect(stops=[(frontend, backend), (batch, backend)])
    lab.in_force(ALLOW_FRONTEND)
    expect(stops=[(frontend, backend), (batch, backend)])
    lab.in_force(written.ADMIN_PASS)
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])


def test_a_baseline_decides_only_where_no_policy_does(lab: Running) -> None:
    frontend, batch, backend = (party(lab, name) for name in ("frontend", "batch", "backend"))
    lab.in_force(written.BASELINE_DENY)
    expect(passes=[(batch, backend)], stops=[(frontend, backend)])
    lab.in_force(written.NETWORK_POLICY)
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])


# --- named ports


def test_a_named_port_is_the_number_that_each_endpoint_gave_it(lab: Running) -> None:
    frontend, batch = party(lab, "frontend"), party(lab, "batch")
    before = lab.ipcache("node1")
    with (
        new_pod(lab, "named1", "node2", labels=["app=named"], ports=["web=8080/tcp"]) as first,
        new_pod(lab, "named2", "node2", labels=["app=named"], ports=["web=8081/tcp"]) as second,
    ):
        lab.in_force(written.INGRESS_NAMED)
        expect(
            passes=[(frontend, first, 8080), (frontend, second, 8081)],
            stops=[(frontend, first, 8081), (frontend, second, 8080), (batch, first, 8080)],
        )
    eventually_sync(lambda: lab.ipcache("node1") == before, message="both pods are gone")


def test_a_named_port_of_a_peer_is_its_number_while_its_pods_agree(lab: Running) -> None:
    batch, backend = party(lab, "batch"), party(lab, "backend")
    lab.in_force(written.EGRESS_NAMED)
    with new_pod(lab, "named1", "node2", labels=["app=named"], ports=["web=8081/tcp"]) as first:
        soon(passes=[(batch, first, 8081)], stops=[(batch, first, 8080), (batch, backend)])
        with new_pod(lab, "named2", "node2", labels=["app=named"], ports=["web=8080/tcp"]) as second:
            soon(stops=[(batch, first, 8081), (batch, second, 8080)])
        soon(passes=[(batch, first, 8081)])


# --- audit, and what a node cannot do


def test_an_audited_policy_reports_what_it_would_drop_until_it_is_enforced(lab: Running) -> None:
    frontend, batch, backend = (party(lab, name) for name in ("frontend", "batch", "backend"))
    lab.in_force(written.AUDITED)
    expect(passes=[(frontend, backend), (batch, backend)])
    for version in (0, 1):
        wait_denied(lab, "AUDIT", batch.ips[version], backend.ips[version], by="tried-out")
    shown = lab.command("observe", "--verdict", "AUDIT", "--type", "policy-verdict").out
    assert "AUDITED" in shown
    assert "tried-out" in shown
    lab.in_force(written.NO_LONGER_AUDITED)
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])


def test_what_a_node_cannot_enforce_leaves_the_last_policy_in_force(lab: Running) -> None:
    frontend, batch, backend = (party(lab, name) for name in ("frontend", "batch", "backend"))
    lab.in_force(ALLOW_FRONTEND)
    (policy,) = lab.store(written.HTTP)

    def refused() -> policy_pb2.PolicyStatus | None:
        status = lab.policy_status(policy.kind, policy.namespace, policy.name)
        return status if [lag.reason for lag in status.pending if lag.reason] else None

    status = eventually_sync(refused, message="the node says why the policy is not in force")
    assert status is not None
    assert (status.acknowledged_nodes, status.expected_nodes) == (0, 1)
    assert [lag.node_name for lag in status.pending] == ["node2"]
    assert "CiliumNetworkPolicy default/with-http" in status.pending[0].reason
    assert "http proxy" in status.pending[0].reason
    assert "the last policy stays in force" in lab.command("policy", "status").err
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])

    lab.client.policy.DeletePolicy(
        policy_pb2.DeletePolicyRequest(kind=policy.kind, namespace=policy.namespace, name=policy.name)
    )
    eventually_sync(
        lambda: [one.state_reason for one in lab.endpoints() if one.state_reason] == [],
        message="no endpoint is stale",
    )
    assert lab.policy_status(policy.kind, "default", "allow-frontend").acknowledged_nodes == 1
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])


# --- pods that come and go


def map_id(lab: Running, node: str, pod: str) -> int | None:
    """Number of the policy map that the kernel has for a pod."""
    endpoint = next(one for one in lab.endpoints() if one.pod_name == pod)
    pin = (
        lab.state.plan(lab.cluster).pins / "axoneme" / node / f"v{layout.SCHEMA_VERSION}" / layout.POLICY.name
    )
    outer = KernelMap.open(pin)
    try:
        return outer.inner_id(layout.policy_outer_key(endpoint.endpoint_id))
    finally:
        outer.close()


def identities_in_map(lab: Running, pod: str) -> set[int]:
    """Peers that the policy map of a pod speaks of."""
    shown = json.loads(lab.command("bpf", "policy", "get", pod, "-o", "json").out)
    return {entry.get("identity", 0) for entry in shown["entries"]}


def test_an_identity_comes_into_a_map_and_goes_without_a_new_map(lab: Running) -> None:
    backend = party(lab, "backend")
    lab.in_force(ALLOW_NEWCOMER)
    number, peers = map_id(lab, "node2", "backend"), identities_in_map(lab, "backend")
    with new_pod(lab, "newcomer", "node1", labels=["app=newcomer", "run=in-place"]) as newcomer:
        expect(
            passes=[(newcomer, backend)],
            stops=[(party(lab, "frontend"), backend)],
            seconds=FIRST_PACKET_SECONDS,
        )
        assert len(identities_in_map(lab, "backend") - peers) == 1
        assert map_id(lab, "node2", "backend") == number
    # Nobody has its labels any more, so the number is collected.
    eventually_sync(lambda: identities_in_map(lab, "backend") <= peers, message="the number is forgotten")
    assert map_id(lab, "node2", "backend") == number
    expect(stops=[(party(lab, "batch"), backend)])
