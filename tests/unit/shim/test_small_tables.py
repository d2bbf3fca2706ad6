"""Cookies, endpoint states, routes and the state file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import FailedPrecondition, NotFound
from axoneme.lib.labels import workload_labels
from axoneme.lib.policy.model import Origin
from shim.cookies import CookieTable
from shim.endpoints import Endpoint, EndpointState, EndpointTable, generation_after
from shim.routes import OVERLAY, UNREACHABLE, NodeEntry, desired_routes
from shim.state import NodeState, StateFile


def endpoint(number: int = 1, **fields: object) -> Endpoint:
    values: dict[str, object] = {
        "endpoint_id": number,
        "namespace": "default",
        "pod_name": f"pod{number}",
        "labels": workload_labels(["app=web"], namespace="default", cluster="east"),
        "identity": 70_000,
        "ips": ("10.1.0.2", "fd00:10:1::2"),
        "netns": "/run/netns/x",
    }
    return Endpoint(**{**values, **fields})  # type: ignore[arg-type]


@given(st.lists(st.frozensets(st.integers(1, 6), max_size=3), max_size=30))
def test_cookies_are_one_to_one_and_survive_a_restart(sets: list[frozenset[int]]) -> None:
    table = CookieTable()
    cookies = [table.cookie_of(one) for one in sets]
    assert dict(zip(sets, cookies, strict=True)) == {one: table.cookie_of(one) for one in sets}
    assert len(set(cookies)) == len(set(sets))
    again = CookieTable()
    again.load(table.dump())
    assert [again.cookie_of(one) for one in sets] == cookies
    assert again.cookie_of(frozenset({99})) not in cookies


def test_cookie_brings_its_origins_back() -> None:
    table = CookieTable()
    origin = Origin.of(kind="CiliumNetworkPolicy", namespace="default", name="web", rule="spec.ingress[0]")
    table.learn({origin.origin_id: origin})
    cookie = table.cookie_of(frozenset({origin.origin_id}))
    again = CookieTable()
    again.load(table.dump())
    assert again.origins_of(cookie) == (origin,)
    assert again.origins_of(0) == again.origins_of(12345) == ()


def test_only_the_oldest_unused_cookies_are_forgotten() -> None:
    table = CookieTable(max_cookies=3)
    cookies = [table.cookie_of(frozenset({number})) for number in range(1, 7)]
    assert table.forget_unused(lambda: [cookies[0]]) == 3
    assert table.cookie_of(frozenset({1})) == cookies[0]
    assert table.cookie_of(frozenset({2})) not in cookies, "a forgotten number is not reused at once"


def test_endpoint_states_follow_the_drawing() -> None:
    table = EndpointTable()
    table.put(endpoint())
    with pytest.raises(ValueError, match="LOCKED to STALE"):
        table.step(1, EndpointState.STALE)
    for state in (EndpointState.READY, EndpointState.STALE, EndpointState.READY, EndpointState.TERMINATING):
        assert table.step(1, state).state is state
    with pytest.raises(ValueError, match="TERMINATING to READY"):
        table.step(1, EndpointState.READY)
    assert table.with_identity(70_000) == []
    table.remove(1)
    with pytest.raises(NotFound):
        table.require(1)


def test_endpoint_table_tells_each_change_once() -> None:
    table = EndpointTable()
    told: list[tuple[int, bool]] = []
    stop = table.listen(lambda number, one: told.append((number, one is not None)))
    table.put(endpoint())
    table.change(1, identity=70_000)
    table.change(1, identity=70_001)
    table.remove(1)
    table.remove(1)
    stop()
    table.put(endpoint(2))
    assert told == [(1, True), (1, True), (1, False)]
    assert table.revision == 4


def test_routes_lead_to_other_nodes_by_family() -> None:
    nodes = [
        NodeEntry(
            cluster="east",
            name="n2",
            internal_ips=("192.0.2.2", "2001:db8::2"),
            pod_cidrs=("10.2.0.0/24", "fd00:10:2::/64"),
        ),
        NodeEntry(
            cluster="east",
            name="n3",
            internal_ips=("192.0.2.3",),
            pod_cidrs=("10.2.0.0/24", "fd00:10:3::/64"),
        ),
        NodeEntry(cluster="east", name="n1", internal_ips=("192.0.2.1",), pod_cidrs=("10.1.0.0/24",)),
    ]
    assert desired_routes(nodes, "east/n1", ("10.1.0.0/24",)) == {
        "10.1.0.0/24": UNREACHABLE,
        "10.2.0.0/24": "192.0.2.2",
        "fd00:10:2::/64": "2001:db8::2",
    }


def test_a_tunnel_needs_no_address_of_the_family() -> None:
    cidrs = ("10.2.0.0/24", "fd00:10:2::/64")
    for ip in ("192.0.2.2", "2001:db8::2"):
        nodes = [NodeEntry(cluster="west", name="n2", internal_ips=(ip,), pod_cidrs=cidrs)]
        own = ("10.1.0.0/24", "fd00:10:1::/64")
        assert desired_routes(nodes, "east/n1", own, tunnel=True) == {
            **dict.fromkeys(own, UNREACHABLE),
            **dict.fromkeys(cidrs, OVERLAY),
        }


def test_state_file_round_trip(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    assert file.load() == NodeState()
    state = NodeState(
        last_endpoint_id=41,
        pod_cidrs=("10.1.0.0/24",),
        router_ips=("10.1.0.1",),
        health_ips=("10.1.0.200",),
        endpoints=(endpoint(),),
        released=(7,),
    )
    file.save(state)
    assert file.load() == state
    assert file.path.stat().st_mode & 0o777 == 0o600
    before = file.path.stat().st_ino
    file.save(state)
    assert file.path.stat().st_ino == before, "the same state is not written again"


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}', '{"format": 1}', "[]"])
def test_a_state_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(text)
    with pytest.raises(FailedPrecondition, match="move it away"):
        file.load()


def test_a_state_file_from_before_last_endpoint_id_is_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(NodeState(last_endpoint_id=5))
    raw = json.loads(file.path.read_text())
    del raw["last_endpoint_id"]
    file.path.write_text(json.dumps(raw))
    assert StateFile(tmp_path).load() == NodeState()


def test_generations_never_are_zero() -> None:
    assert generation_after(1) == 2
    assert generation_after(0xFFFF_FFFE) == 0xFFFF_FFFF
    assert generation_after(0xFFFF_FFFF) == 1
