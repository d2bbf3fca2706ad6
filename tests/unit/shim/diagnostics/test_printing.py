"""What `axoneme trace` prints and how it tells addresses apart, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.errors import FailedPrecondition
from shim.diagnostics import child, probe
from shim.diagnostics.names import Names
from shim.diagnostics.render import Summary, histogram, line_of


@pytest.fixture
def names() -> Names:
    made = Names()
    made.add_pods([("default/web", ["10.1.0.2", "fd00:10:1::2"]), ("shop/web", ["10.1.0.3"])])
    prefixes = [("0.0.0.0/0", 2), ("::/0", 2), ("192.0.2.1/32", 1), ("2001:db8::1/128", 1)]
    made.add_prefixes(prefixes)
    return made


def event(kind: str, source: str, destination: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "time": 1.5,
        "protocol": 6,
        "source": source,
        "source_port": 1000,
        "destination": destination,
        "destination_port": 80,
        **fields,
    }


@pytest.mark.parametrize(
    ("source", "destination", "ends"),
    [
        ("10.1.0.2", "192.0.2.1", "10.1.0.2:1000 (default/web) -> 192.0.2.1:80 (host)"),
        ("fd00:10:1::2", "2001:db8::1", "[fd00:10:1::2]:1000 (default/web) -> [2001:db8::1]:80 (host)"),
        ("10.1.0.2", "198.51.100.1", "10.1.0.2:1000 (default/web) -> 198.51.100.1:80 (world)"),
        ("fd00:10:1::2", "2001:db8::9", "[fd00:10:1::2]:1000 (default/web) -> [2001:db8::9]:80 (world)"),
    ],
)
def test_lines_name_both_ends(names: Names, source: str, destination: str, ends: str) -> None:
    line = line_of(event("drop", source, destination, reason="no_socket"), names)
    assert "no_socket" in line
    assert line.endswith(ends)
    fields = {"state": "established", "milliseconds": 1.25, "task": "curl"}
    assert "connected 1.250 ms curl" in line_of(event("connect", source, destination, **fields), names)
    assert "failed" in line_of(event("connect", source, destination, **{**fields, "state": "closed"}), names)
    assert "retransmit in syn_sent" in line_of(
        event("retransmit", source, destination, state="syn_sent"), names
    )


def test_a_pod_has_its_addresses_of_both_families(names: Names) -> None:
    assert names.addresses("default/web") == ["10.1.0.2", "fd00:10:1::2"]
    assert names.addresses("shop/web") == ["10.1.0.3"]
    assert names.addresses("web") == ["10.1.0.2", "10.1.0.3", "fd00:10:1::2"]
    assert names.addresses("nobody") == []


def test_histograms_have_no_holes() -> None:
    lines = list(histogram("connect_us", [(512, 10), (2048, 5)]))
    assert [line.split("  ")[-1].count("█") for line in lines[1:]] == [40, 0, 20]
    assert "512 µs - 1.02 ms" in lines[1]
    assert "nothing was seen" in list(histogram("rtt_us", []))[1]
    assert len(list(histogram("rtt_us", [(0, 1), (1, 1), (4, 1)]))) == 5


def test_counts_by_reason() -> None:
    summary = Summary()
    for reason in ("a", "b", "b"):
        summary.add(event("drop", "10.1.0.2", "fd00::1", reason=reason))
    assert [line.split()[:2] for line in summary.lines()] == [["b", "2"], ["a", "1"]]


@pytest.mark.parametrize("address", ["10.1.0.2", "fd00:10:1::2"])
def test_the_probe_keeps_addresses_as_the_datapath_does(address: str) -> None:
    raw = probe.mapped(address)
    assert len(raw) == 16
    assert probe.shown(raw) == address
    record = probe.EVENT.pack(5, 1_500_000, raw, raw, 1000, 80, 7, 6, b"curl")
    made = probe.decoded("connects", record, {}, 10**9)
    assert (made["source"], made["destination_port"]) == (address, 80)
    assert (made["state"], made["milliseconds"], made["task"]) == ("closed", 1.5, "curl")
    assert probe.decoded("drops", record, {7: "no_socket"}, 0)["reason"] == "no_socket"
    assert probe.decoded("drops", record, {}, 0)["reason"] == "reason 7"


def test_without_root_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.os, "geteuid", lambda: 1000)
    with pytest.raises(FailedPrecondition, match="sudo"):
        next(child.probed("drops", 1.0))


def test_a_machine_that_cannot_trace_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(child.os, "geteuid", lambda: 0)
    script = tmp_path / "probe.py"
    monkeypatch.setattr(child, "PROBE", script)
    script.write_text('print(\'{"error": "install python3-bpfcc"}\'); raise SystemExit(1)')
    with pytest.raises(FailedPrecondition, match="install python3-bpfcc"):
        list(child.probed("drops", 1.0))
    script.write_text("raise ValueError('odd')")
    with pytest.raises(FailedPrecondition, match="ended with 1: ValueError: odd"):
        list(child.probed("drops", 1.0))
    monkeypatch.setattr(child, "SYSTEM_PYTHON", str(tmp_path / "none"))
    with pytest.raises(FailedPrecondition, match="install python3"):
        list(child.probed("drops", 1.0))


def test_missing_headers_and_tracepoints_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(probe, "HEADERS", ("linux/no_such_header.h",))
    with pytest.raises(probe.ProbeError, match="linux-libc-dev"):
        probe.header_tree(tmp_path)
    monkeypatch.setattr(probe, "TRACEFS", tmp_path)
    with pytest.raises(probe.ProbeError, match=r"no tracepoint skb:kfree_skb.*CONFIG_TRACEPOINTS"):
        probe.fields_of("skb:kfree_skb")
    folder = tmp_path / "events" / "skb" / "kfree_skb"
    folder.mkdir(parents=True)
    text = "\tfield:void * skbaddr;\toffset:8;\tsize:8;\tsigned:0;\n\tfield:__u8 a[4];\toffset:32;\tsize:4;\n"
    (folder / "format").write_text(text + 'print fmt: "x", { 2, "NOT_SPECIFIED" }, { 3, "NO_SOCKET" }\n')
    assert probe.fields_of("skb:kfree_skb") == {"skbaddr": 8, "a": 32}
    assert probe.reasons() == {2: "not_specified", 3: "no_socket"}
