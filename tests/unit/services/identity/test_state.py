"""The mirror of etcd: what changes, what is held, what is released."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Delete, Put, Row
from axoneme.lib.labels import LabelSet
from services.identity.domain import Address, Node
from services.identity.records import NodeRecord, encode_address, encode_node, encode_record
from services.identity.state import WITHDRAWN, ClusterState

IP = "10.1.0.7"
IP_KEY = layout.ip_key(IP)
RECORD_KEY = layout.record_key("east", "node1")
LEASE = 7


def address(identity: int = 70_000, lease: int = LEASE, revision: int = 1) -> Row:
    return Row(
        IP_KEY, encode_address(Address(ip=IP, identity=identity, host_ip="1.1.1.1")), revision, lease=lease
    )


def record(revision: int = 1, **fields: Any) -> Row:
    return Row(RECORD_KEY, encode_record(NodeRecord(leases=(LEASE,), **fields)), revision)


def declared() -> ClusterState:
    state = ClusterState("east", 1)
    node = encode_node(Node(name="node1", cluster="east", internal_ips=("1.1.1.1",)))
    rows = [Row(layout.node_key("east", "node1"), node, 1, lease=LEASE), address(), record(declared=True)]
    changes = state.replace(rows, 1)
    assert (changes.addresses, changes.nodes) == ({IP}, {"east/node1"})
    assert state.unsettled() == set()
    return state


def test_an_expired_row_is_held_until_the_node_declared() -> None:
    state = declared()
    assert state.apply([Delete(IP_KEY, 2)], 2).addresses == set()
    assert state.is_held(IP_KEY)
    assert state.unsettled() == {"node1"}
    assert state.apply([Put(record(3, declared=True))], 3).addresses == {IP}
    assert IP not in state.addresses
    assert state.unsettled() == set()


def test_a_row_that_is_written_again_is_no_change() -> None:
    state = declared()
    state.apply([Delete(IP_KEY, 2)], 2)
    assert state.apply([Put(address(revision=3)), Put(record(4, declared=True))], 4).addresses == set()
    assert state.addresses[IP].mod_revision == 3


def test_rows_and_record_of_one_revision_count_together() -> None:
    state = declared()
    state.apply([Delete(IP_KEY, 2)], 2)
    assert state.apply([Put(record(3, declared=True)), Put(address(revision=3))], 3).addresses == set()


def test_a_withdrawal_counts_at_once() -> None:
    state = declared()
    events = [Delete(IP_KEY, 2), Put(Row(WITHDRAWN, b"", 2))]
    assert state.apply(events, 2).addresses == {IP}
    state = declared()
    later = [Delete(IP_KEY, 2), Put(Row(WITHDRAWN, b"", 3))]
    assert state.apply(later, 3).addresses == set()


def test_rows_of_foreign_leases_are_not_held() -> None:
    state = declared()
    state.apply([Put(address(lease=99, revision=2))], 2)
    assert state.apply([Delete(IP_KEY, 3)], 3).addresses == {IP}


def test_an_expired_or_deleted_record_releases() -> None:
    for event in (Put(record(3, expired=True)), Delete(RECORD_KEY, 3)):
        state = declared()
        state.apply([Delete(IP_KEY, 2)], 2)
        assert state.apply([event], 3).addresses == {IP}
        assert state.unsettled() == set()


def test_a_listing_that_misses_a_leased_row_is_an_expiry() -> None:
    state = declared()
    assert state.replace([record(1, declared=True)], 9).addresses == set()
    assert state.unsettled() == {"node1"}


def test_values_that_cannot_be_read_leave_the_last_good_one() -> None:
    state = declared()
    bad = [
        Row(IP_KEY, b"{", 2, lease=LEASE),
        Row(layout.ip_key("10.1.0.8"), address().value, 3),
        Row(layout.master_key(300), b"k8s:a=b;", 4),
        Row(layout.master_key(70_000), b"k8s:a=b", 5),
        Row(layout.MASTERS + "x", b"k8s:a=b;", 6),
    ]
    changes = state.apply([Put(row) for row in bad], 6)
    assert (changes.addresses, changes.identities, state.malformed) == (set(), set(), 5)
    assert state.addresses[IP].value.identity == 70_000


MASTER_EVENTS = st.lists(st.tuples(st.integers(65_536, 65_541), st.sampled_from(["", "a", "b"])), max_size=40)


@given(MASTER_EVENTS)
def test_numbers_by_labels_as_by_looking_at_all(steps: list[tuple[int, str]]) -> None:
    state = ClusterState("east", 1)
    plain: dict[int, str] = {}
    for revision, (number, app) in enumerate(steps, 1):
        key = layout.master_key(number)
        if app:
            state.apply([Put(Row(key, f"k8s:app={app};".encode(), revision))], revision)
            plain[number] = app
        else:
            state.apply([Delete(key, revision)], revision)
            plain.pop(number, None)
        for wanted in "ab":
            labels = LabelSet.parse([f"k8s:app={wanted}"])
            expected = min((n for n, value in plain.items() if value == wanted), default=None)
            assert state.number_of(labels) == expected
        assert state.identities.keys() == plain.keys()


ADDRESS_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "withdraw", "node", "drop node", "record"]),
        st.integers(1, 3),
        st.sampled_from([LEASE, 8, 0]),
        st.sampled_from(["1.1.1.1", "2.2.2.2", ""]),
    ),
    max_size=40,
)


@given(ADDRESS_EVENTS)
def test_owners_of_addresses_as_by_looking_at_all(steps: list[tuple[str, int, int, str]]) -> None:
    state = declared()
    for revision, (step, last, lease, host) in enumerate(steps, 2):
        ip, node_key = f"10.1.0.{last}", layout.node_key("east", "node1")
        key, events = layout.ip_key(ip), list[Put | Delete]()
        if step == "put":
            value = encode_address(Address(ip=ip, identity=70_000, host_ip=host))
            events.append(Put(Row(key, value, revision, lease=lease)))
        elif step in ("delete", "withdraw"):
            events.append(Delete(key, revision))
            if step == "withdraw":
                events.append(Put(Row(WITHDRAWN, b"", revision)))
        elif step == "node":
            node = Node(name="node1", cluster="east", internal_ips=(host,) if host else ())
            events.append(Put(Row(node_key, encode_node(node), revision, lease=LEASE)))
        elif step == "drop node":
            events += [Delete(node_key, revision), Put(Row(WITHDRAWN, b"", revision))]
        else:
            value = encode_record(NodeRecord(leases=(LEASE, lease) if lease else (LEASE,), declared=last > 1))
            events.append(Put(Row(RECORD_KEY, value, revision)))
        state.apply(events, revision)
        record, found = state.records["node1"].value, state.node("node1")
        hosts = found.value.internal_ips if found else ()
        for owned, row in state.addresses.items():
            held_for = state.held.get(layout.ip_key(owned))
            here = row.value.host_ip in hosts
            mine = row.lease in record.leases or here or held_for == "node1"
            assert (owned in state.owned_by("node1")) == mine
            assert state.owner_of(owned) == (held_for or ("node1" if here else ""))
        assert state.owned_by("node1").keys() <= state.addresses.keys()


def test_a_new_revision_of_a_registration_is_told_with_its_node() -> None:
    state = declared()
    assert state.apply([Put(record(2, declared=True, pod_cidrs=("10.1.0.0/24",)))], 2).nodes == {"east/node1"}
