"""The record of a laboratory, and what the commands make of it."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from axoneme.client.context import LAB_VARIABLE
from axoneme.lab import pods, report, state, topology
from axoneme.lab.cli import lab
from axoneme.lab.files import root_directory
from axoneme.lab.processes import Process
from axoneme.lab.state import LabState


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LAB_VARIABLE, str(tmp_path / "lab"))
    return tmp_path / "lab"


def saved(root: Path, *, simulated: bool = False, clusters: int = 1) -> LabState:
    record = LabState(
        root=root, topology=topology.from_flags(clusters=clusters, simulated=simulated), complete=True
    )
    record.ips_by_pod = {"east/backend": ["10.1.2.3", "fd00:10:1:2::3"], "east/batch": ["10.1.1.9"]}
    record.save()
    return record


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(lab, list(words))
    return result.exit_code, result.output


def test_a_record_reads_back(root: Path) -> None:
    record = saved(root)
    record.record(Process(name="etcd", cluster="east", pid=1, start_time=2, log="x"))
    assert state.load(root) == record


def test_a_process_started_again_replaces_its_record(root: Path) -> None:
    record = saved(root)
    for pid in (10, 11):
        record.record(Process(name="etcd", cluster="east", pid=pid, start_time=2, log="x"))
    assert [process.pid for process in record.processes] == [11]
    assert record.process("east", "etcd").pid == 11


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"topology": 3}'])
def test_a_damaged_record_is_no_record(root: Path, content: str) -> None:
    root.mkdir()
    (root / state.FILE).write_text(content)
    assert state.load(root) is None


def test_the_record_names_the_clusters_for_other_tools(root: Path) -> None:
    saved(root, clusters=2)
    assert json.loads((root / "lab.json").read_text())["clusters"] == ["east", "west"]


@pytest.mark.parametrize("words", [("status",), ("exec", "batch", "--", "true"), ("env",)])
def test_without_a_lab_the_answer_is_how_to_start_one(root: Path, words: tuple[str, ...]) -> None:
    code, output = run(*words)
    assert (code, output) == (1, "Error: no lab is running: `axoneme lab up` starts one\n")


def test_env_is_shell_that_other_tools_understand(root: Path) -> None:
    saved(root)
    code, output = run("env")
    lines = [shlex.split(line) for line in output.splitlines()]
    variables = dict(words[1].split("=", 1) for words in lines)
    assert code == 0
    assert variables["AXONEME_CONTEXT"] == str(root / "east" / "context.json")
    assert variables["HUBBLE_SERVER"] == "198.18.1.10:4245"
    assert variables["HUBBLE_TLS_SERVER_NAME"] == "relay.east.mesh"
    assert variables["HUBBLE_TLS_CLIENT_KEY_FILE"].endswith("certs/user/tls.key")


def test_env_of_an_unknown_cluster_names_the_known_ones(root: Path) -> None:
    saved(root, clusters=2)
    assert run("env", "--cluster", "nowhere") == (1, "Error: --cluster nowhere: the lab has east, west\n")


def test_a_simulated_lab_runs_no_command_in_a_pod(root: Path) -> None:
    saved(root, simulated=True)
    code, output = run("exec", "batch", "--", "true")
    assert code == 1
    assert "simulated: no packets" in output


def test_status_shows_stopped_processes_and_says_simulated(root: Path) -> None:
    record = saved(root, simulated=True)
    record.record(Process(name="etcd", cluster="east", pid=os.getpid(), start_time=1, log="x"))
    code, output = run("status")
    assert code == 1
    assert output.startswith("simulated: no packets\n")
    assert "stopped" in output


def test_wrong_topologies_end_in_one_line(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("clusters: [{name: east}]\n")
    assert run("up", "--topology", str(file)) == (1, f"Error: {file}: clusters[0].nodes: is missing\n")
    file.write_text("clusters: [\n")
    code, output = run("up", "--topology", str(file))
    assert code == 1
    assert "is not YAML" in output
    assert output.count("\n") == 1


def test_a_missing_etcd_is_said_in_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    code, output = run("up", "--control-plane")
    assert code == 1
    assert "etcd is not installed: apt-get install etcd-server" in output
    assert not root.exists()


def test_pods_know_each_other_by_name(root: Path) -> None:
    record = saved(root)
    lines = pods.hosts_file(record.ips_by_pod, record.topology.clusters[0]).splitlines()
    assert "10.1.2.3 backend.east backend" in lines
    assert "fd00:10:1:2::3 backend.east backend" in lines


def test_another_users_lab_lives_in_their_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAB_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert root_directory() == Path("/run/user/1000/axoneme/lab")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert root_directory() == Path("/run/axoneme/lab")


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ((), "axoneme lab exec frontend -- curl -sS http://backend:8080"),
        (
            ("backend-a@node1", "backend-b@node2"),
            "axoneme lab exec backend-a -- curl -sS http://backend-b:8080",
        ),
        (("web",), None),
    ],
)
def test_the_hint_of_a_lab_is_a_request_that_works_there(
    tmp_path: Path, names: tuple[str, ...], hint: str | None
) -> None:
    said = report.summary(LabState(root=tmp_path, topology=topology.from_flags(pods=list(names)), token="t"))
    assert hint in said if hint else "curl" not in said
