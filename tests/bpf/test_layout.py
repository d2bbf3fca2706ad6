"""The C structs in the compiled object (its BTF) against the Python records: names, sizes and offsets."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock
from shim.bpf.manifest import object_path, read_manifest
from shim.flows.record import EVENT_DTYPE
from shim.maps import base, layout, lb, node, sockets

C_NAMES = {
    layout.EndpointEntry: "endpoint_entry",
    layout.PolicyKey: "policy_key",
    layout.PolicyEntry: "policy_entry",
    layout.LearnedKey: "learned_key",
    layout.LearnedEntry: "learned_entry",
    base.IpcacheKey: "ipcache_key",
    layout.IpcacheEntry: "ipcache_entry",
    layout.CtKey: "ct_key",
    layout.CtEntry: "ct_entry",
    layout.FragmentKey: "fragment_key",
    layout.FragmentEntry: "fragment_entry",
    layout.EndpointDropKey: "endpoint_drop_key",
    layout.MetricEntry: "metric_entry",
    lb.LbKey: "lb_key",
    lb.LbService: "lb_service",
    lb.LbSlotKey: "lb_slot_key",
    lb.LbBackend: "lb_backend",
    lb.LbAffinityKey: "lb_affinity_key",
    lb.LbAffinity: "lb_affinity",
    lb.LbSourceKey: "lb_source_key",
    lb.NatKey: "nat_key",
    lb.NatEntry: "nat_entry",
    lb.SocketKey: "socket_key",
    lb.SocketEntry: "socket_entry",
    node.LocalEntry: "local_entry",
    node.NodeIp: "node_ip",
    node.NodeConfig: "node_config",
    sockets.PairKey: "pair_key",
    sockets.SocketPair: "socket_pair",
    sockets.NetnsEntry: "netns_entry",
}
WIDTHS = {"B": 1, "H": 2, "I": 4, "Q": 8}


@pytest.fixture(scope="module")
def structs(compiled: None) -> dict[str, Any]:
    tool = shutil.which("bpftool")
    if tool is None:
        pytest.skip("needs bpftool (apt-get install bpftool)")
    found: dict[str, Any] = {}
    for name in read_manifest()["objects"]:
        command = [tool, "-j", "btf", "dump", "file", str(object_path(name))]
        dump = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        found |= {one["name"]: one for one in dump["types"] if one["kind"] == "STRUCT"}
    return found


def members(struct: dict[str, Any]) -> dict[str, int]:
    """Offset of each field in bytes, padding left out."""
    return {
        one["name"]: one["bits_offset"] // 8
        for one in struct["members"]
        if not re.fullmatch(r"pad\d?", one["name"])
    }


def offsets(record: type[base.Record]) -> dict[str, int]:
    """The same out of a record's format string, which names its padding."""
    names = iter(field.name for field in fields(record))  # type: ignore[arg-type]
    found, position = {}, 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", record.FORMAT.format):
        if code != "x":
            found[next(names)] = position
        position += WIDTHS.get(code, int(count or 1))
    assert next(names, None) is None
    return found


def test_every_record_has_its_struct() -> None:
    # slots=True makes a second class of each name, hence names
    assert {one.__name__ for one in C_NAMES} == {one.__name__ for one in base.Record.__subclasses__()}


@pytest.mark.parametrize("record", C_NAMES, ids=lambda one: one.__name__)
def test_records_equal_the_structs(structs: dict[str, Any], record: type[base.Record]) -> None:
    struct = structs[C_NAMES[record]]
    assert members(struct) == offsets(record)
    assert struct["size"] == record.FORMAT.size


def test_the_event_record_equals_its_struct(structs: dict[str, Any]) -> None:
    struct = structs["axoneme_event"]
    assert struct["size"] == EVENT_DTYPE.itemsize == 96
    numpy_fields = {name: place[1] for name, place in (EVENT_DTYPE.fields or {}).items()}
    named = {name: at for name, at in numpy_fields.items() if not re.fullmatch(r"pad\d?", name)}
    assert members(struct) == named


def test_map_specs_equal_the_objects(compiled: None) -> None:
    """Every object declares its maps as the layout does, and some object declares each map."""
    declared = set()
    for name in read_manifest()["objects"]:
        with BpfObject(object_path(name)) as opened:
            found = opened.map_specs()
        declared |= set(found)
        for spec in (layout.MAPS[one] for one in found):
            plain = MapSpec(**{f.name: getattr(spec, f.name) for f in fields(MapSpec)} | {"inner": None})
            assert found[spec.name] == plain, name
    assert declared == set(layout.MAPS)


@st.composite
def blocks(draw: st.DrawFn) -> PortBlock:
    protocol = draw(st.integers(0, 255))
    length = draw(st.integers(0, 16)) if protocol else 0
    port = draw(st.integers(0, 0xFFFF)) >> (16 - length) << (16 - length)
    return PortBlock(protocol, port, length)


Keys = st.builds(MapKey, st.sampled_from(Direction), st.integers(0, 2**32 - 1), blocks())


@given(key=Keys)
def test_policy_keys_round_trip(key: MapKey) -> None:
    assert layout.policy_key_from_bytes(layout.policy_key(key)) == key


@given(key=Keys, precedence=st.integers(0, 2**32 - 1), cookie=st.integers(0, 2**32 - 1), audit=st.booleans())
def test_policy_entries_carry_what_they_should(
    key: MapKey, precedence: int, cookie: int, audit: bool
) -> None:
    entry = MapEntry(action=Action.DENY, precedence=precedence, audit=audit)
    raw = layout.PolicyEntry.unpack(layout.policy_entry(key, entry, cookie=cookie, proxy_port=10001))
    assert (raw.precedence, raw.cookie, raw.proxy_port) == (precedence, cookie, 10001)
    assert (raw.action, raw.flags, raw.port_bits) == (2, int(audit), key.ports.specificity)


@given(address=st.ip_addresses())
def test_addresses_round_trip(address: base.Address) -> None:
    raw = base.address_bytes(address)
    if address.version == 6 and address.ipv4_mapped is not None:
        assert base.address_from_bytes(raw) == address.ipv4_mapped
    else:
        assert base.address_from_bytes(raw) == address


@pytest.mark.parametrize(
    ("prefix", "bits"), [("0.0.0.0/0", 96), ("10.0.0.0/8", 104), ("::/0", 0), ("fd00::/64", 64)]
)
def test_prefixes_round_trip(prefix: str, bits: int) -> None:
    key = base.IpcacheKey.of(prefix)
    assert key.prefix_length == bits
    assert base.IpcacheKey.unpack(key.pack()).network() == ipaddress.ip_network(prefix)


def test_metric_slots_do_not_overlap() -> None:
    keys = {layout.metric_key(d, r) for d in Direction for r in range(256)} | {layout.lost_events_key()}
    assert len(keys) == layout.METRIC_SLOTS
