"""The observe command: flags, files, a real server, signals."""

# ruff: noqa: E501  (tables of cases)

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.cli.flowprinter_json import response_json
from axoneme.cli.main import main


def response(second: int, verdict: str = "FORWARDED", pod: str = "web-1") -> observer_pb2.GetFlowsResponse:
    time = f"2026-03-01T10:00:{second:02d}Z"
    flow = {
        "time": time, "verdict": verdict, "IP": {"source": "10.1.0.11", "destination": "10.1.0.12"},
        "l4": {"TCP": {"source_port": second, "destination_port": 8080}},
        "source": {"identity": 300, "namespace": "shop", "pod_name": pod}, "destination": {"identity": 2},
        "event_type": {"type": 4, "sub_type": 3}, "is_reply": False, "Summary": "TCP Flags: SYN", "node_name": "n",
    }  # fmt: skip
    values = {"flow": flow, "time": time, "node_name": "n"}
    return json_format.ParseDict(values, observer_pb2.GetFlowsResponse())


SAMPLES = [response(1), response(2, "DROPPED"), response(3, pod="api-1"), response(4, "DROPPED", "api-1")]


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    file = tmp_path / "flows.json"
    file.write_text("".join(response_json(sample) + "\n\n" for sample in SAMPLES))
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["observe", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def seconds(out: str) -> list[int]:
    return [int(line.split()[2].split(":")[2].split(".")[0]) for line in out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], [1, 2, 3, 4]),
        (["--last", "2"], [3, 4]),
        (["--first", "1"], [1]),
        (["--verdict", "DROPPED"], [2, 4]),
        (["--verdict", "dropped", "--pod", "shop/api"], [4]),
        (["--not", "--verdict", "DROPPED"], [1, 3]),
        (["--not", "--verdict=DROPPED", "--last", "1"], [3]),
        (["--not", "--verdict", "DROPPED", "--not", "--from-pod", "shop/api"], [1, 2, 3]),
        (["-n", "shop", "--not", "-n", "data"], [1, 2, 3, 4]),
        (["--from-port", "1", "--from-port", "4"], [1, 4]),
        (["--from-port", "1", "--verdict", "DROPPED"], []),
        (["--since", "2026-03-01T10:00:02Z", "--until", "2026-03-01T10:00:03Z"], [2, 3]),
        (["--allowlist", '{"verdict":["DROPPED"]} {"source_port":["1"]}'], [1, 2, 4]),
        (["--denylist", '{"verdict":["DROPPED"]}'], [1, 3]),
        (["-4"], []),
        (["flows", "--to-identity", "world"], [1, 2, 3, 4]),
    ],
)
def test_a_file_is_filtered_as_a_server_would(
    capsys: pytest.CaptureFixture[str], flows: Path, arguments: list[str], wanted: list[int]
) -> None:
    head = ["flows"] if arguments[:1] == ["flows"] else []
    code, out, err = run(capsys, *head, "--input-file", str(flows), *arguments[len(head) :])
    assert (code, err) == (0, "" if wanted else "no flow matches\n")
    assert seconds(out) == wanted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--not"], "--not is followed by no filter"),
        (["--not", "--not", "--verdict", "DROPPED"], "--not cannot be followed by --not"),
        (["--pod", "a", "--from-pod", "b"], "filters --pod and --from-pod cannot be combined"),
        (["--verdict", "MAYBE"], "--verdict: unknown value 'MAYBE'"),
        (["--first", "1", "--last", "1"], "--first and --last cannot be combined"),
        (["-f", "-o", "table"], "table output cannot be combined with --follow"),
        (["--port", "http"], "--port: 'http' is not a port number"),
        (["--not", "--ip", "10.x"], "--ip: '10.x' is not an address or a CIDR"),
        (["--verdict"], "'--verdict' requires an argument"),
        (["-l"], "requires an argument"),
        (["--time-format", "Unix"], "Invalid value for '--time-format': 'Unix' is not one of"),
        (["--denylist", "{"], "--denylist: not a FlowFilter"),
        (["--since", "soon"], "--since: cannot read 'soon'"),
        (["--server", "x:1", "--socket", "/y"], "exclude each other"),
        (["--input-file", "/nonexistent"], "--input-file /nonexistent: No such file"),
    ],
)
def test_errors_take_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert code in (1, 2)
    assert out == ""
    assert text in err.splitlines()[-1]


def test_a_bad_line_of_a_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(response_json(SAMPLES[0]) + "\nnonsense\n")
    code, _, err = run(capsys, "--input-file", str(file))
    assert code == 1
    assert "line 2: not JSON" in err


def test_raw_filters(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--from-pod", "a", "--not", "--verdict", "DROPPED", "--print-raw-filters")
    assert code == 0
    assert out == (
        'allowlist:\n    - \'{"source_pod":["a"]}\'\ndenylist:\n    - \'{"verdict":["DROPPED"]}\'\n'
    )


def test_help_hides_the_negations(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["observe", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--from-label" in text
    assert "--not-" not in text


class Recorded(observer_pb2_grpc.ObserverServicer):
    """Answers with the samples, then waits when followed."""

    def __init__(self) -> None:
        self.requests: list[observer_pb2.GetFlowsRequest] = []

    def GetFlows(
        self, request: observer_pb2.GetFlowsRequest, context: Any
    ) -> Iterator[observer_pb2.GetFlowsResponse]:
        self.requests.append(request)
        yield json_format.ParseDict(
            {"node_status": {"state_change": "NODE_UNAVAILABLE", "node_names": ["east/n2"]}, "node_name": "relay",
             "time": "2026-03-01T10:00:00Z"},
            observer_pb2.GetFlowsResponse(),
        )  # fmt: skip
        yield from SAMPLES
        while request.follow and context.is_active():
            yield SAMPLES[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, Recorded]]:
    path, recorded = tmp_path / "observer.sock", Recorded()
    grpc_server = grpc.server(futures.ThreadPoolExecutor(2))
    observer_pb2_grpc.add_ObserverServicer_to_server(recorded, grpc_server)
    grpc_server.add_insecure_port(f"unix://{path}")
    grpc_server.start()
    yield path, recorded
    grpc_server.stop(0).wait()


def test_flows_of_a_server(capsys: pytest.CaptureFixture[str], server: tuple[Path, Recorded]) -> None:
    path, recorded = server
    code, out, err = run(capsys, "--socket", str(path), "--last", "7", "--from-pod", "shop/web")
    assert code == 0
    assert seconds(out) == [1, 2, 3, 4]
    assert err == "Mar  1 10:00:00.000 [relay]: 1 nodes are unavailable: east/n2\n"
    assert recorded.requests[0].number == 7
    assert recorded.requests[0].whitelist[0].source_pod == ["shop/web"]
    code, out, err = run(capsys, "--server", f"unix://{path}", "-s", "-o", "json")
    assert (code, err, len(out.splitlines())) == (0, "", 4)


def test_a_server_that_is_not_there_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, "--socket", str(tmp_path / "none.sock"))
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "axoneme.cli.main", "observe", "--socket", str(path), *arguments]
    # Whoever runs the tests in the background has interrupts ignored, and children inherit that.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_interrupting_a_follow_is_success(server: tuple[Path, Recorded]) -> None:
    process = start(server[0], "-f")
    assert process.stdout is not None
    assert "to-stack" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_a_closed_pipe_is_success(server: tuple[Path, Recorded]) -> None:
    process = start(server[0], "-f")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
