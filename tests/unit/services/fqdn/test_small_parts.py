"""Layouts, settings, questions of the API, watchers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.lib import config, identities
from axoneme.lib.errors import InvalidArgument
from services.fqdn import pins, precache, questions
from services.fqdn.config import FqdnConfig
from services.fqdn.lookups import LookupFeed
from services.fqdn.model import NXDOMAIN, Flow, Verdict
from shim.config import ShimConfig
from shim.maps import base, layout, node
from tests.unit.services.fqdn.parts import (
    Clock,
    Maps,
    add_endpoint,
    add_prefix,
    answer,
    learner,
    node_maps,
    question,
    raw,
    ruling,
    table,
)

# --- layouts


def test_layouts_are_the_shims() -> None:
    assert pins.SCHEMA_VERSION == layout.SCHEMA_VERSION
    pairs = (
        (pins.LOCAL, node.LocalEntry),
        (pins.ENDPOINT, layout.EndpointEntry),
        (pins.IPCACHE_KEY, base.IpcacheKey),
        (pins.IPCACHE, layout.IpcacheEntry),
        (pins.LEARNED_KEY, layout.LearnedKey),
        (pins.LEARNED, layout.LearnedEntry),
    )
    for own, theirs in pairs:
        assert own.format == theirs.FORMAT.format
    assert set(pins.NAMES) <= {*layout.MAPS}


def test_maps_are_read_as_the_shim_writes_them() -> None:
    clock = Clock()
    maps = node_maps(clock)
    entry = layout.EndpointEntry(7, 0x10, 300, 2, raw("10.0.0.2"), raw("2001:db8::2"), b"mac123", b"host12")
    maps.maps["axoneme_ep"].update(layout.endpoint_key(3), entry.pack())
    local = node.LocalEntry(3, 7, b"mac123", b"host12").pack()
    for address in ("10.0.0.2", "2001:db8::2"):
        maps.maps["axoneme_local"].update(layout_address(address), local)
    for address in ("10.0.0.2", "2001:db8::2"):
        assert maps.subject_of(raw(address)) == (7, 300)
    assert maps.subject_of(raw("10.0.0.3")) is None
    assert maps.endpoints()[7].identity == 300
    exact = layout.IpcacheEntry(5_000).pack()
    maps.maps["axoneme_ipexact"].update(layout_address("192.0.2.1"), exact)
    maps.maps["axoneme_ipcache"].update(
        base.IpcacheKey.of("192.0.2.0/24").pack(), layout.IpcacheEntry(5_001).pack()
    )
    found = [
        maps.identity_of(raw(text)) for text in ("192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::9")
    ]
    assert found == [5_000, 5_001, identities.WORLD_IPV4, identities.WORLD_IPV6]
    write = pins.LearnedWrite(7, raw("192.0.2.9"), 1 << 24, 12_345)
    maps.write_learned([write])
    ((key, value),) = maps.maps["axoneme_learned"].items()
    assert layout.LearnedKey.unpack(key) == layout.LearnedKey(7, layout_address("192.0.2.9"))
    assert layout.LearnedEntry.unpack(value) == layout.LearnedEntry(1 << 24, 12_345)
    assert maps.learned() == [write]
    assert maps.delete_learned([(7, raw("192.0.2.9")), (7, raw("192.0.2.8"))]) == 1


def layout_address(text: str) -> bytes:
    return base.address_bytes(text)


def test_what_was_read_is_remembered_for_five_milliseconds() -> None:
    clock = Clock()
    maps = node_maps(clock)
    add_endpoint(maps, "10.0.0.2", ifindex=3, endpoint_id=7, identity=300)
    assert maps.subject_of(raw("10.0.0.2")) == (7, 300)
    assert maps.identity_of(raw("192.0.2.1")) == identities.WORLD_IPV4
    add_endpoint(maps, "10.0.0.2", ifindex=3, endpoint_id=7, identity=301)
    add_prefix(maps, "192.0.2.1/32", 5_000)
    clock.now += 0.0049
    assert (maps.subject_of(raw("10.0.0.2")), maps.identity_of(raw("192.0.2.1"))) == ((7, 300), 9)
    clock.now += 0.0002
    assert (maps.subject_of(raw("10.0.0.2")), maps.identity_of(raw("192.0.2.1"))) == ((7, 301), 5_000)


# --- settings


def load(tmp_path: Path, text: str, **environ: str) -> FqdnConfig:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return config.load(FqdnConfig, file=file, environ=environ)


NODE = 'node_name = "n1"\nmtu = 1400\nmetrics_address = "127.0.0.1:1"\ndns_proxy_port = 5300\n'


def test_one_file_for_both_processes(tmp_path: Path) -> None:
    text = NODE + '[fqdn]\nmin_ttl = 5\ndeny_response_code = "nameError"\n'
    cfg = load(
        tmp_path, text, AXONEME_FQDN_MAX_UPSTREAMS="9", AXONEME_METRICS_ADDRESS="x:1", AXONEME_NODE_NAME="n2"
    )
    assert (cfg.node_name, cfg.min_ttl, cfg.max_upstreams) == ("n2", 5, 9)
    assert cfg.metrics_address == "127.0.0.1:9967", "that of the shim is at the top"
    assert (cfg.proxy.port, cfg.proxy.deny_rcode) == (5300, NXDOMAIN)
    assert cfg.pin_directory == Path(f"/sys/fs/bpf/axoneme/n2/v{layout.SCHEMA_VERSION}")
    shim = config.load(ShimConfig, file=tmp_path / "node.toml", environ={})
    assert shim.mtu == 1400
    assert shim.pin_directory.name == cfg.pin_directory.name


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[fqdn]\nmin_tll = 5\n", r"\[fqdn\] min_tll"),
        ("fqdn = 5\n", r"write \[fqdn\]"),
        ('[fqdn]\nnode_name = "x"\n', r"\[fqdn\] node_name"),
        ("[fqdn]\nmax_upstreams = 0\n", "max_upstreams"),
        ('[fqdn]\nbarrier_action = "wait"\n', "barrier_action"),
        ('[fqdn]\ndeny_response_code = "SERVFAIL"\n', "deny_response_code"),
        ("[fqdn]\nbarrier_seconds = 60\n", "barrier_seconds"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(InvalidArgument, match=fault):
        load(tmp_path, NODE.replace("dns_proxy_port = 5300\n", "") + text)


def test_the_shim_still_knows_its_own_misspelt_words(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('node_name = "n1"\nmuu = 3\n[fqdn]\n[fqnd]\n')
    with pytest.raises(InvalidArgument) as caught:
        config.load(ShimConfig, file=file, environ={})
    assert {one.field.split(": ")[1] for one in caught.value.violations} == {"muu", "fqnd"}


# --- questions


def test_faults_of_lookups_are_named_one_by_one() -> None:
    messages = [
        pb.Lookup(endpoint_id=7, name="a.x", addresses=["192.0.2.1", "2001:db8::1"], ttl=Duration(seconds=5)),
        pb.Lookup(endpoint_id=8, name="", addresses=[], ttl=Duration(seconds=-1)),
        pb.Lookup(endpoint_id=7, name="a..x", addresses=["x"], ttl=Duration(seconds=700_000)),
    ]
    with pytest.raises(InvalidArgument) as caught:
        questions.lookups(messages, {7})
    assert {one.field for one in caught.value.violations} == {
        *(f"lookups[1].{field}" for field in ("endpoint_id", "name", "addresses", "ttl")),
        *(f"lookups[2].{field}" for field in ("name", "addresses", "ttl")),
    }
    found = questions.lookups(messages[:1], {7})
    assert [(one.question.qtype, one.answer.addresses) for one in found] == [
        (1, (raw("192.0.2.1"),)),
        (28, (raw("2001:db8::1"),)),
    ]
    with pytest.raises(InvalidArgument, match="1000"):
        questions.lookups(messages[:1] * 1_001, {7})


@pytest.mark.parametrize("text", ["a b", "ü.x", "a\x1b[2J", "x" * 256])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="match_pattern"):
        questions.pattern(text)


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("*.X.", "a.x", True),
        ("*.x", "a.b.x", False),
        ("*", "a.b", True),
        ("**", "a", True),
        ("**.x", "a.b.x", True),
        ("a.x", "a.x", True),
    ],
)
def test_patterns(text: str, name: str, matches: bool) -> None:
    made = questions.pattern(text)
    assert made is not None
    assert made(question(name).name) is matches


# --- watchers

FLOW = Flow(17, raw("10.0.0.2"), 40_000, raw("192.0.2.53"), 53)


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    feed, woken = LookupFeed(), list[int]()
    feed.request(FLOW, ruling(), question("nobody.x"), Verdict.FORWARDED, "")
    reader = feed.open(lambda: woken.append(1), limit=10)
    for n in range(25):
        feed.request(FLOW, ruling(), question(f"n{n}.x"), Verdict.DENIED, "no")
    assert len(woken) == 1, "woken once until it takes"
    seen, lost = reader.take(4)
    assert lost == 15
    assert [one.question for one in seen] == [question(f"n{n}.x") for n in range(15, 19)]
    feed.response(FLOW, ruling(), question("a.x"), answer("192.0.2.1"), 5, Verdict.FORWARDED, "")
    assert len(woken) == 2
    assert len(reader.take(100)[0]) == 7
    feed.close(reader)
    feed.request(FLOW, ruling(), question("a.x"), Verdict.ERROR, "")
    assert reader.take() == ([], 0)
    assert list(feed.queries.values()) == [1, 25, 1]


def test_counts_are_exact_while_two_threads_work() -> None:
    feed = LookupFeed()
    reader = feed.open(lambda: None, limit=64)
    total = 100_000

    def put() -> None:
        for _ in range(total):
            feed.request(FLOW, ruling(), question("a.x"), Verdict.FORWARDED, "")

    thread = threading.Thread(target=put)
    thread.start()
    seen = lost = 0
    while thread.is_alive() or len(reader):
        found, missed = reader.take(16)
        seen, lost = seen + len(found), lost + missed
    thread.join()
    found, missed = reader.take(total)
    assert seen + lost + len(found) + missed == total


# --- pre-cache


def test_pre_cache_takes_what_the_list_printed(tmp_path: Path) -> None:
    maps, clock = Maps(), Clock()
    one = learner(maps, clock)
    one.replace_table(table({1: ("0.0.0.0/0", ["a.x"])}))
    entry = {
        "endpoint_id": 7,
        "name": "a.x.",
        "addresses": [
            {"address": "192.0.2.1", "expires": "2030-01-01T00:00:10Z", "identity": 1},
            {"address": "192.0.2.2", "expires": "2029-12-31T23:59:59.500Z", "identity": 1},
        ],
    }
    path = tmp_path / "names.json"
    path.write_text(json.dumps([entry, {**entry, "endpoint_id": 8}, {"name": 5}, 3]))
    wall = 1_893_456_000.0  # 2030-01-01
    assert precache.load(path, one, {7}, lambda: wall) == 1
    assert maps.learned == {(7, raw("192.0.2.1")): (1, clock.ns() + 11 * 1_000_000_000)}
    known = one.cache.name(7, question("a.x").name)
    assert known is not None
    assert known.source == 2
    path.write_text("{")
    assert precache.load(path, one, {7}, lambda: wall) == 0
