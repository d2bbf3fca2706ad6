"""The history of an endpoint: what is worth an entry, and how much is kept."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from axoneme.lib.errors import NotFound
from axoneme.lib.labels import LabelSet
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.inspection import endpointlog
from shim.inspection.endpointlog import EndpointLog

MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def made(number: int = 7) -> Endpoint:
    return Endpoint(
        endpoint_id=number,
        namespace="default",
        pod_name=f"web{number}",
        labels=LabelSet.parse(["k8s:app=web"]),
        identity=5001,
        ips=("10.0.0.7", "fd00::7"),
        netns="/run/netns/web",
    )


def test_a_life_is_told_in_order() -> None:
    table = EndpointTable()
    log = EndpointLog(table, now=lambda: MOMENT)
    table.put(made())
    table.change(7, interface_name="axo7", ifindex=12)
    table.step(7, EndpointState.READY)
    table.change(7, policy_generation=42, published=True)
    table.step(7, EndpointState.STALE, "no room")
    log.note(7, "regenerated")
    table.change(7, audit=True, identity=5002)
    table.remove(7)
    assert [entry.message for entry in log.entries(7)] == [
        "created as default/web7 with identity 5001 and 10.0.0.7, fd00::7",
        "interface axo7, index 12",
        "locked -> ready",
        "policy generation 42 is in the kernel",
        "addresses published",
        "ready -> stale: no room",
        "regenerated",
        "identity 5001 -> 5002",
        "policy auditing on",
        "removed",
    ]
    message = log.message(7)
    assert message.entries[0].time.ToDatetime(tzinfo=dt.UTC) == MOMENT
    assert message.entries[-1].state == 0


def test_what_exists_already_begins_with_its_creation() -> None:
    table = EndpointTable()
    table.put(made())
    assert len(EndpointLog(table, now=lambda: MOMENT).entries(7)) == 1


def test_a_number_that_was_never_used_is_not_found() -> None:
    with pytest.raises(NotFound, match="endpoint 9"):
        EndpointLog(EndpointTable(), now=lambda: MOMENT).entries(9)


def test_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpointlog, "GONE", 3)
    table = EndpointTable()
    log = EndpointLog(table, now=lambda: MOMENT)
    for number in range(1, 7):
        table.put(made(number))
        table.remove(number)
    table.put(made(9))
    for generation in range(1, 300):
        table.put(replace(made(9), policy_generation=generation))
    assert len(log.entries(9)) == endpointlog.ENTRIES
    for number in (1, 2, 3):
        with pytest.raises(NotFound):
            log.entries(number)
    assert log.entries(4)
