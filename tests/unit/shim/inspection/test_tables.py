"""What people see of the kernel's tables: connections, translations, frontends, counters."""

from __future__ import annotations

import pytest

from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.policy.model import Direction, Origin
from shim.inspection import counters
from shim.inspection.connections import Connections, Wanted
from shim.inspection.counters import CounterMaps
from shim.inspection.frontends import FrontendNames, Frontends, LbMaps, elements_of
from shim.inspection.translations import Translations
from shim.lifetimes import NS
from shim.maps import base, layout, lb

NOW = 5_000 * NS
FAMILIES = pytest.mark.parametrize(
    ("client", "server", "shown"),
    [
        ("10.0.0.1", "10.0.0.2", "10.0.0.1:4711 -> 10.0.0.2:80"),
        ("fd00::1", "fd00::2", "[fd00::1]:4711 -> [fd00::2]:80"),
    ],
)


def ct_key(client: str, server: str, *, endpoint_id: int = 7, port: int = 4711) -> layout.CtKey:
    return layout.CtKey(
        base.address_bytes(client),
        base.address_bytes(server),
        port.to_bytes(2, "big"),
        (80).to_bytes(2, "big"),
        6,
        int(Direction.INGRESS),
        endpoint_id,
    )


def ct_entry(*, idle: float = 1.0, state: int = 2, flags: int = 1, cookie: int = 3) -> layout.CtEntry:
    return layout.CtEntry(NOW - int(idle * NS), 9, 5001, cookie, state, flags, 1)


def connections(rows: dict[layout.CtKey, layout.CtEntry]) -> tuple[Connections, MemoryMap]:
    table = MemoryMap(layout.CT)
    for key, entry in rows.items():
        table.update(key.pack(), entry.pack())
    origin = Origin(
        origin_id=1, kind="CiliumNetworkPolicy", namespace="default", name="web", rule="ingress[0]"
    )
    return Connections(
        table, origins_of=lambda cookie: (origin,) if cookie == 3 else (), now_ns=lambda: NOW
    ), table


@FAMILIES
def test_a_connection_says_everything(client: str, server: str, shown: str) -> None:
    found, _ = connections({ct_key(client, server): ct_entry(idle=2.5, flags=1 | 64)})
    (one,) = found.page(Wanted(shown), 0, "").connections
    assert (one.source_ip, one.source_port, one.destination_ip, one.destination_port) == (
        client,
        4711,
        server,
        80,
    )
    assert (one.endpoint_id, one.direction, one.protocol, one.state) == (7, 1, 6, "established")
    assert (one.peer_identity, one.policy_generation, list(one.flags)) == (
        5001,
        9,
        ["reply-seen", "translated"],
    )
    assert (one.idle_seconds, one.expires_seconds) == (2.5, 8000 - 2.5)
    assert [origin.name for origin in one.origins] == ["web"]


def test_connections_come_newest_first_by_pages() -> None:
    rows = {ct_key("10.0.0.1", "10.0.0.2", port=number): ct_entry(idle=number) for number in range(1, 8)}
    found, table = connections(rows)
    first = found.page(Wanted(), 3, "")
    assert [one.source_port for one in first.connections] == [1, 2, 3]
    assert (first.entries, first.max_entries) == (7, table.max_entries)
    second = found.page(Wanted(), 5, first.next_page_token)
    assert [one.source_port for one in second.connections] == [4, 5, 6, 7]
    assert not second.next_page_token
    with pytest.raises(InvalidArgument):
        found.page(Wanted(), -1, "")


def test_one_endpoint_and_the_host_are_told_apart() -> None:
    rows = {ct_key("10.0.0.1", "10.0.0.2", endpoint_id=number): ct_entry() for number in (0, 7)}
    found, _ = connections(rows)
    assert [one.endpoint_id for one in found.page(Wanted(endpoint_id=0), 0, "").connections] == [0]
    assert len(found.page(Wanted(), 0, "").connections) == 2


def test_a_flush_takes_what_was_named_and_nothing_else() -> None:
    rows = {ct_key("10.0.0.1", "10.0.0.2", port=number): ct_entry() for number in (1000, 2000)}
    found, table = connections(rows)
    assert found.flush(Wanted(":1000 ->")) == 1
    assert [layout.CtKey.unpack(key).source_port_be for key, _ in table.items()] == [
        (2000).to_bytes(2, "big")
    ]
    assert found.flush(Wanted(":1000 ->")) == 0


@FAMILIES
def test_a_translation_says_what_a_packet_becomes(client: str, server: str, shown: str) -> None:
    table = MemoryMap(lb.NAT)
    vip = "172.20.1.1" if "." in client else "fd00:20::1"
    key = lb.NatKey(
        base.address_bytes(client), base.address_bytes(vip), b"\x12\x67", b"\x00\x50", 6, lb.NAT_FROM_EP, 7
    )
    entry = lb.NatEntry(
        base.address_bytes(client),
        base.address_bytes(server),
        b"\x12\x67",
        b"\x1f\x90",
        4,
        2,
        lb.NAT_SERVICE,
        1,
        NOW,
    )
    table.update(key.pack(), entry.pack())
    found = Translations(table, now_ns=lambda: NOW + 3 * NS)
    (one,) = found.page(vip, 0, "").translations
    assert (one.side, one.endpoint_id, list(one.flags), one.idle_seconds) == (
        "from-endpoint",
        7,
        ["service"],
        3,
    )
    assert (one.source, one.new_source) == (shown.split(" ")[0], shown.split(" ")[0])
    assert vip in one.destination
    assert server in one.new_destination
    assert not found.page("nowhere", 0, "").translations


class Named:
    """Names of one frontend."""

    def names_of(self, key: lb.LbKey) -> FrontendNames:
        return FrontendNames(kind="ClusterIP", service="default/web", terminating=(3,))


def frontends() -> Frontends:
    maps = LbMaps(MemoryMap(lb.LB), MemoryMap(lb.LB_SLOTS), MemoryMap(lb.LB_BACKENDS))
    for number, address, flags in ((1, "10.0.0.2", 0), (2, "10.0.0.3", lb.BACKEND_LOCAL), (3, "10.0.0.4", 1)):
        backend = lb.LbBackend(base.address_bytes(address), b"\x1f\x90", 6, flags)
        maps.backends.update(base.number_key(number), backend.pack())
    for slot, number in enumerate((1, 2)):
        maps.slots.update(lb.LbSlotKey(5, slot).pack(), base.number_key(number))
    key = lb.LbKey(base.address_bytes("172.20.1.1"), b"\x00\x50", 6, lb.LB_INSIDE)
    maps.frontends.update(key.pack(), lb.LbService(5, 2, lb.LB_AFFINITY, 60, 251).pack())
    return Frontends(maps, Named())


def test_a_frontend_has_its_backends_and_names() -> None:
    (one,) = frontends().page("web", 0, "").frontends
    assert (one.address, one.scope, one.type, one.service) == (
        "172.20.1.1:80/TCP",
        "inside",
        "ClusterIP",
        "default/web",
    )
    assert [(b.backend_id, b.address, b.local, b.terminating) for b in one.backends] == [
        (1, "10.0.0.2:8080", False, False),
        (2, "10.0.0.3:8080", True, False),
        (3, "10.0.0.4:8080", False, True),
    ]
    assert (one.set_id, one.maglev_size, one.affinity_seconds, list(one.flags)) == (5, 251, 60, ["affinity"])
    assert not frontends().page("other", 0, "").frontends


async def test_a_table_is_read_in_order_and_a_missing_one_is_said() -> None:
    spec = lb.MAGLEV_INNER.__class__(
        name="t", kind=lb.MAGLEV_INNER.kind, key_size=4, value_size=4, max_entries=4, flags=0
    )
    table = MemoryMap(spec)
    for index, number in enumerate((2, 1, 1, 9)):
        table.update(base.number_key(index), base.number_key(number))

    async def opened(set_id: int) -> MemoryMap | None:
        return table if set_id == 5 else None

    message = frontends().table(await elements_of(5, opened))
    assert list(message.backend_ids) == [2, 1, 1, 9]
    assert dict(message.addresses) == {1: "10.0.0.2:8080", 2: "10.0.0.3:8080"}
    with pytest.raises(NotFound, match="set 6"):
        await elements_of(6, opened)


def test_counters_are_named_and_summed_over_cpus() -> None:
    maps = CounterMaps(MemoryMap(layout.METRICS), MemoryMap(layout.EP_STATS), MemoryMap(layout.EP_DROPS))
    one = layout.MetricEntry(2, 300).pack()
    maps.node.update(layout.metric_key(Direction.EGRESS, 0), one * 2)
    maps.node.update(layout.metric_key(Direction.INGRESS, 133), one * 2)
    maps.node.update(layout.lost_events_key(), one * 2)
    maps.endpoints.update(layout.endpoint_stats_key(7, Direction.INGRESS, dropped=False), one * 2)
    for reason in (181, 133):
        maps.drops.update(layout.EndpointDropKey(7, 1, reason).pack(), one * 2)
    found = counters.read(maps)
    assert found.lost_events == 4
    assert [
        (m.endpoint_id if m.HasField("endpoint_id") else None, m.direction, m.reason, m.packets, m.octets)
        for m in found.metrics
    ] == [
        (None, 1, "POLICY_DENIED", 4, 600),
        (None, 2, "FORWARDED", 4, 600),
        (7, 1, "FORWARDED", 4, 600),
        (7, 1, "POLICY_DENIED", 4, 600),
        (7, 1, "POLICY_DENY", 4, 600),
    ]
    assert counters.reason_name(255) == "255"
