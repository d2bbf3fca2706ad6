"""What `axoneme observe` sends for its flags, against the requests recorded from the Hubble CLI (HUBBLE.md §2.3)."""

# ruff: noqa: E501  (tables of cases)
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.cli.main import main
from axoneme.lib.flows.fieldmasks import DEFAULT_PATHS
from tests.golden.observeserver import Served, context_free, serving

RECORDED_MASK = [
    "time",
    "verdict",
    "ethernet",
    "IP",
    "l4",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "node_name",
    "l7",
    "event_type",
    "source_service",
    "destination_service",
    "is_reply",
    "Summary",
    "ip_trace_id",
]
X, Y = "2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z"
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("", {"number": "20"}),
    ("flows", {"number": "20"}),
    ("--last 5", {"number": "5"}),
    ("--first 3", {"number": "3", "first": True}),
    ("--all", {"number": "18446744073709551615"}),
    ("-f", {"follow": True}),
    ("-f --last 3", {"follow": True, "number": "3"}),
    (f"--since {X} --until {Y}", {"since": X, "until": Y}),
    (f"--since {X} --last 7", {"since": X, "number": "7"}),
    (f"--since {X} --first 2", {"since": X, "number": "2", "first": True}),
    (f"--until {Y}", {"until": Y}),
    (f"--until {Y} -f", {"follow": True}),
    (f"-f --since {X}", {"follow": True, "since": X}),
]
FILTERS: list[tuple[str, list[dict[str, Any]]]] = [
    ("--snat-ip 192.0.2.1", [{"source_ip_xlated": ["192.0.2.1"]}]),
    ("--http-status 5+ --http-method get", [{"http_status_code": ["5+"], "http_method": ["get"]}]),
    ("--http-path ^/a --http-url b", [{"http_path": ["^/a"], "http_url": ["b"]}]),
    ("--http-header X-Id:a:b", [{"http_header": [{"key": "X-Id", "value": "a:b"}]}]),
    ("--cluster east", [{"source_cluster_name": ["east"]}, {"destination_cluster_name": ["east"]}]),
    ("--from-cluster east --to-cluster west", [{"source_cluster_name": ["east"], "destination_cluster_name": ["west"]}]),
    ("--node-label zone=a", [{"node_labels": ["zone=a"]}]),
    ("--encrypted", [{"encrypted": [True]}]),
    ("--unencrypted", [{"encrypted": [False]}]),
    ("--trace-id abc --ip-trace-id 7", [{"trace_id": ["abc"], "ip_trace_id": ["7"]}]),
    ("--cel-expression _flow.verdict==1", [{"experimental": {"cel_expression": ["_flow.verdict==1"]}}]),
    ("--pod a --port 53", [{"source_pod": ["a"], "source_port": ["53"]}, {"destination_pod": ["a"], "destination_port": ["53"]}]),
    ("--from-pod a --from-pod b", [{"source_pod": ["a", "b"]}]),
    ("-n shop", [{"source_pod": ["shop/"]}, {"destination_pod": ["shop/"]}]),
    ("-n shop --pod web", [{"source_pod": ["shop/web"]}, {"destination_pod": ["shop/web"]}]),
    ("-n shop --service api", [{"source_service": ["shop/api"]}, {"destination_service": ["shop/api"]}]),
    ("-A", [{"source_pod": ["/"]}, {"destination_pod": ["/"]}]),
    ("-A --pod web", [{"source_pod": ["/web"]}, {"destination_pod": ["/web"]}]),
    ("--from-namespace shop --verdict DROPPED", [{"source_pod": ["shop/"], "verdict": ["DROPPED"]}]),
    ("-t l7 -t drop", [{"event_type": [{"type": 129}, {"type": 1}]}]),
    ("-4", [{"ip_version": ["IPv4"]}]),
    ("--tcp-flags syn,ack --tcp-flags rst", [{"tcp_flags": [{"SYN": True, "ACK": True}, {"RST": True}]}]),
    ("--identity world", [{"source_identity": [2]}, {"destination_identity": [2]}]),
]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context_free(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(f"unix:{tmp_path_factory.mktemp('o') / 's.sock'}") as served:
        yield served


def sent(server: Served, words: str, *more: str) -> dict[str, Any]:
    assert main(["observe", *words.split(), *more, "--socket", server.socket]) == 0
    return server.last


@pytest.mark.parametrize(("words", "wanted"), REQUESTS)
def test_selectors(server: Served, words: str, wanted: dict[str, Any]) -> None:
    assert sent(server, words) == wanted
    assert list(server.observer.requests[-1].field_mask.paths) == list(DEFAULT_PATHS)


def test_the_mask_begins_with_the_recorded_one(server: Served) -> None:
    assert list(DEFAULT_PATHS[: len(RECORDED_MASK)]) == RECORDED_MASK
    for words in ("-o json", "-o jsonpb", "--use-default-field-masks=false", "--no-use-default-field-masks"):
        sent(server, words)
        assert not server.observer.requests[-1].HasField("field_mask")
    sent(server, "-o json --field-mask verdict,source.pod_name")
    assert list(server.observer.requests[-1].field_mask.paths) == ["verdict", "source.pod_name"]


def test_a_duration_is_back_from_now(server: Served) -> None:
    before = time.time_ns()
    sent(server, "--since 5m")
    since: Timestamp = server.observer.requests[-1].since
    assert before <= since.ToNanoseconds() + 300 * 10**9 <= time.time_ns()
    assert not server.observer.requests[-1].HasField("until")
    assert server.observer.requests[-1].number == 0


@pytest.mark.parametrize(("words", "wanted"), FILTERS)
def test_filters(server: Served, words: str, wanted: list[dict[str, Any]]) -> None:
    assert sent(server, words) == {"number": "20", "whitelist": wanted}
    negated = " ".join(f"--not {word}" if word.startswith("-") else word for word in words.split())
    assert sent(server, negated) == {"number": "20", "blacklist": wanted}


def test_not_is_for_the_next_filter_only(server: Served) -> None:
    request = sent(server, "--not --verdict FORWARDED --to-port 80 --not --to-port=5432")
    assert request["whitelist"] == [{"destination_port": ["80"]}]
    assert request["blacklist"] == [{"verdict": ["FORWARDED"], "destination_port": ["5432"]}]


def test_raw_filters_of_flags_environment_and_file(
    server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    assert main(["observe", "--from-pod", "it's", "--not", "--to-port", "1", "--print-raw-filters"]) == 0
    file.write_text(
        "allowlist:\n    - '{\"source_pod\":[\"it''s\"]}'\ndenylist:\n    - '{\"reply\":[true]}'\n"
    )
    request = sent(server, "--config", str(file))
    assert request["whitelist"] == [{"source_pod": ["it's"]}]
    monkeypatch.setenv("HUBBLE_DENYLIST", '{"verdict":["DROPPED"]} {"uuid":["a b"]}')
    request = sent(server, "--config", str(file))
    assert request["blacklist"] == [{"verdict": ["DROPPED"]}, {"uuid": ["a b"]}]
    request = sent(server, "--config", str(file), "--denylist", '{"uuid":["c"]}')
    assert request["blacklist"] == [{"uuid": ["c"]}]


def test_print_raw_filters_is_what_a_config_file_takes(
    server: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--pod", "it's", "--not", "--label", "a=b", "--http-path", "^/x$"]
    assert main(["observe", *words, "--print-raw-filters"]) == 0
    text = capsys.readouterr().out
    assert text.startswith('allowlist:\n    - \'{"source_pod":["it\'\'s"],"http_path":["^/x$"]}\'\n    - ')
    file = tmp_path / "raw.yaml"
    file.write_text(text)
    assert sent(server, "--config", str(file)) == sent(server, "", *words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--encrypted --unencrypted", "filters --encrypted and --unencrypted cannot be combined"),
        ("--cluster a --from-cluster b", "filters --cluster and --from-cluster cannot be combined"),
        ("--namespace a --to-pod b", "filters --namespace and --to-pod cannot be combined"),
        ("--ip 192.0.2.1 --pod b", "filters --ip and --pod cannot be combined"),
        ("-n a --pod b/c", "--namespace a contradicts the namespace of 'b/c'"),
        ("--ip-trace-id 0", "--ip-trace-id: '0' is not a number from 1 on"),
        ("--http-header x", "--http-header: 'x' is not NAME:VALUE"),
        ("--http-status 700", "--http-status: '700' is not a status code"),
        ("--http-path a -t drop", "event type filter must be empty or contain l7"),
        ("--field-mask verdict", "--field-mask needs -o json"),
        ("-o json --field-mask nothing", "'nothing' is not a field of a flow"),
        ("-o json --explain", "--explain cannot be combined with JSON"),
        ("-P", "--port-forward needs the Kubernetes API"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], server: Served, words: str, text: str) -> None:
    count = len(server.observer.requests)
    assert main(["observe", *words.split(), "--socket", server.socket]) in (1, 2)
    assert text in capsys.readouterr().err
    assert len(server.observer.requests) == count


@pytest.mark.parametrize("view", ["agent-events", "debug-events"])
def test_requests_of_events(server: Served, view: str) -> None:
    assert sent(server, view) == {"number": "20"}
    assert sent(server, f"{view} --since {X} --last 4") == {"since": X, "number": "4"}
    assert sent(server, f"{view} --first 3") == {"number": "3", "first": True}  # the stock CLI drops it
    assert sent(server, f"{view} -f") == {"follow": True}
