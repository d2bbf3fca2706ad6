"""Numbers, claims, bytes and metrics of load balancing."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from shim.lb.claims import Claims
from shim.lb.metrics import LbMetrics
from shim.lb.model import Frontend, Target, place_name
from shim.lb.numbers import LAST_NUMBER, Numbers
from shim.lb.records import backend_value, frontend_from_key, frontend_key, target_from_value
from shim.maps.base import address_bytes
from tests.unit.shim.lb.lbnode import LbNode, backend, service

ADDRESSES = {4: "10.0.1.7", 6: "fd00::7"}
families = pytest.mark.parametrize("family", [4, 6])


def test_numbers_go_up_and_round() -> None:
    numbers = Numbers()
    assert [numbers.take(()), numbers.take((2, 3))] == [1, 4]
    numbers.last = LAST_NUMBER - 1
    assert [numbers.take(()), numbers.take({1})] == [LAST_NUMBER, 2]


@pytest.mark.parametrize(("stored", "found"), [(0, 0), (70, 0), (0, 70), (70, 50)])
def test_numbers_of_an_earlier_life_are_not_given_again(stored: int, found: int) -> None:
    numbers = Numbers()
    numbers.resume(stored, found)
    assert numbers.take(()) > max(stored, found)
    assert numbers.last == 1 or not stored + found or numbers.last > 70 + 1000


@families
def test_the_first_by_name_has_it(family: int) -> None:
    one, other = (Frontend(address_bytes(ADDRESSES[family]), port, 6, 0) for port in (80, 81))
    claims = Claims()
    assert claims.put("b", [one, other]) == set()
    assert claims.put("a", [one]) == {"b"}
    assert (claims.winner(one), claims.winner(other)) == ("a", "b")
    assert claims.lost("b") == {one: "a"}
    assert claims.put("c", [one]) == {"a", "b"}
    assert claims.put("a", []) == {"b", "c"}
    assert (claims.winner(one), claims.lost("c")) == ("b", {one: "b"})
    assert claims.put("b", [other]) == {"c"}
    assert claims.put("c", []) == set()
    assert claims.winner(one) == ""


@families
def test_bytes_and_names(family: int) -> None:
    address = address_bytes(ADDRESSES[family])
    frontend, target = Frontend(address, 8080, 17, 1), Target(address, 53, 17)
    assert frontend_from_key(frontend_key(frontend)) == frontend
    assert target_from_value(backend_value(target, 2)) == target
    assert target.name == ("10.0.1.7:53/udp" if family == 4 else "[fd00::7]:53/udp")
    assert place_name(address, 1, 50).endswith(":1/50")


@families
async def test_metrics(family: int) -> None:
    node, registry = LbNode(), CollectorRegistry()
    LbMetrics(registry, node.balancer)
    ip = "10.96.0.1" if family == 4 else "fd00:96::1"
    await node.put(service("web", backend(ADDRESSES[family]), cluster_ips=(ip,)))
    for name, value in (("services", 1), ("frontends", 1), ("backends", 1), ("failures", 0)):
        assert registry.get_sample_value(f"axoneme_shim_lb_{name}") == value
