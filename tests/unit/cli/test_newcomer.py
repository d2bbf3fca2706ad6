"""What somebody who has never seen the commands meets: examples, mistakes, narrow terminals, <tab>."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from axoneme.api.node.v1 import node_pb2
from axoneme.cli import causes, completion, render
from axoneme.cli import main as root
from axoneme.client.context import LAB_VARIABLE
from axoneme.lab import state, topology
from axoneme.lib.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from shim.nodeaccess import find_endpoint


def commands(
    command: click.Command = root.root, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group below the root."""
    context = click.Context(command)
    yield path, command
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


def example_lines(text: str) -> list[list[str]]:
    """Words of the examples up to a pipe, a redirection, `&&` or the explanation behind two spaces."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("axoneme ")]
    words = [shlex.split(line.split("  ")[0]) for line in lines]
    ends = ("|", ">", "<", "&&")
    return [line[: next((i for i, word in enumerate(line) if word in ends), len(line))] for line in words]


ALL = dict(commands())


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_help_has_examples_whose_commands_and_options_exist(path: tuple[str, ...]) -> None:
    help_text = ALL[path].get_help(click.Context(ALL[path], info_name="axoneme"))
    examples = example_lines(help_text)
    assert examples, f"axoneme {' '.join(path)} --help shows no example"
    for _, *words in examples:
        if words == ["$(axoneme"] or words[:1] == ["completion"]:
            continue
        found: tuple[str, ...] = ()
        while words and (*found, words[0]) in ALL:
            found = (*found, words.pop(0))
        assert not isinstance(ALL[found], click.Group), f"{found} {words}: names no command"
        known = {name for option in ALL[found].params for name in (*option.opts, *option.secondary_opts)}
        used = words[: words.index("--")] if "--" in words else words
        options = {word.partition("=")[0] for word in used if word.startswith("-") and word != "-"}
        assert options - {"--not"} <= known, f"{found}: {options - known}"


UNREACHED = "failed to connect to all addresses; last error: "


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            Unavailable(f"{UNREACHED}UNKNOWN: ipv4:198.18.1.10:4302: Connection refused"),
            "198.18.1.10:4302: nothing listens there",
        ),
        (
            Unavailable(f"{UNREACHED}unix:/x/s.sock: connect failed: addr: … error: No such file"),
            "/x/s.sock: its socket does not exist",
        ),
        (DeadlineExceeded("Deadline Exceeded"), "no answer in time"),
        (Unavailable("the store does not answer"), None),
        (NotFound(UNREACHED), None),
    ],
)
def test_a_connection_that_fails_names_target_and_cause(error: Any, text: str | None) -> None:
    said = causes.connection_failure(error)
    assert said is None if text is None else said is not None and said.startswith(text)
    assert (text or error.message) in root.describe(error)


def test_a_missing_file_is_not_a_missing_socket() -> None:
    assert causes.explain(InvalidArgument("TLS file /x: No such file or directory"), 1) == (
        "TLS file /x: No such file or directory"
    )


def test_violations_are_not_said_twice() -> None:
    error = InvalidArgument.of_field("cluster", "must be text")
    assert root.describe(error).count("must be text") == 1


def test_the_nearest_command_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert root.main(["polcy", "list"]) == 2
    assert "Did you mean 'policy'?" in capsys.readouterr().err


def test_a_full_disk_is_one_line() -> None:
    code = (
        "import sys\nfrom axoneme.cli.main import main\n"
        "sys.exit(main(['observe', '--print-raw-filters', '--verdict', 'DROPPED']))"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "Error: output: No space left on device\n")


def test_json_has_the_order_of_the_proto_and_sorted_maps() -> None:
    status = node_pb2.GetNodeStatusResponse(features={"tcx": "yes", "btf": "yes"}, endpoints={"READY": 1})
    status.maps.add(name="axoneme_learned", max_entries=5)
    values = render.message_dict(status)
    assert list(values["features"]) == ["btf", "tcx"]
    declared = [field.name for field in node_pb2.GetNodeStatusResponse.DESCRIPTOR.fields]
    assert list(values) == [name for name in declared if name in values]
    fields = [field.name for field in status.maps[0].DESCRIPTOR.fields]
    assert list(values["maps"][0]) == [name for name in fields if name in values["maps"][0]]
    json.dumps(values)


def test_narrow_terminals_get_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("node1", "10.1.1.2,fd00:10:1:1::2", "a long list of labels " * 20)
    monkeypatch.setenv("COLUMNS", "70")
    assert render._fits(("node", "ips", "labels"), [line])
    monkeypatch.setenv("COLUMNS", "40")
    assert not render._fits(("node", "ips", "labels"), [line])


def test_tab_knows_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAB_VARIABLE, str(tmp_path))
    context, parameter = click.Context(root.root), click.Argument(["x"])
    assert completion.pods(context, parameter, "") == []
    state.LabState(root=tmp_path, topology=topology.from_flags(clusters=2), token="t").save()
    assert completion.pods(context, parameter, "default/f") == ["default/frontend"]
    assert completion.pods(context, parameter, "f") == ["default/frontend"]
    assert completion.lab_pods(context, parameter, "west/f") == ["west/frontend"]
    assert completion.nodes(context, parameter, "") == ["node1", "node2"]
    assert completion.clusters(context, parameter, "w") == ["west"]
    assert completion.verdicts(context, parameter, "dr") == ["DROPPED"]


class FakeNodes:
    """A client of two nodes with one endpoint each of id 1, and one of id 2."""

    def __init__(self) -> None:
        self.context = self
        self.nodes = {"node1": Path("a"), "node2": Path("b")}
        self._pods = {"node1": [(1, "frontend"), (2, "web")], "node2": [(1, "backend")]}

    def node(self, name: str) -> Any:
        pods = self._pods[name]

        class Stub:
            def ListEndpoints(self, _: Any) -> node_pb2.ListEndpointsResponse:
                made = [
                    node_pb2.Endpoint(endpoint_id=i, namespace="default", pod_name=pod) for i, pod in pods
                ]
                return node_pb2.ListEndpointsResponse(endpoints=made)

        return Stub()


@pytest.mark.parametrize(
    ("wanted", "node", "found"),
    [
        ("backend", "", ("node2", 1)),
        ("default/web", "", ("node1", 2)),
        ("2", "", ("node1", 2)),
        ("1", "node2", ("node2", 1)),
    ],
)
def test_an_endpoint_is_found_by_pod_or_id(wanted: str, node: str, found: tuple[str, int]) -> None:
    assert find_endpoint(FakeNodes(), wanted, node) == found  # type: ignore[arg-type]


def test_an_endpoint_that_is_not_one_is_refused() -> None:
    with pytest.raises(NotFound, match="no endpoint shop/web on any node"):
        find_endpoint(FakeNodes(), "shop/web", "")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="default/frontend on node1, default/backend on node2"):
        find_endpoint(FakeNodes(), "1", "")  # type: ignore[arg-type]


def test_a_topology_file_takes_no_flags_beside_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("clusters: []")
    assert root.main(["lab", "up", "--topology", str(tmp_path / "lab.yaml"), "--nodes", "3"]) == 2
    assert "--nodes and --topology exclude each other" in capsys.readouterr().err


def test_certs_show_takes_a_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ca, out = str(tmp_path / "ca"), str(tmp_path / "ann")
    assert root.main(["certs", "ca", "--directory", ca, "--trust-domain", "east.mesh"]) == 0
    assert (
        root.main(["certs", "issue", "--ca", ca, "--role", "user/reader", "--name", "ann", "--out", out]) == 0
    )
    capsys.readouterr()
    assert root.main(["certs", "show", out]) == 0
    assert "spiffe://east.mesh/user/reader/ann" in capsys.readouterr().out
    assert root.main(["certs", "show", ca]) == 1
    assert "tls.crt: No such file or directory" in capsys.readouterr().err


def test_another_shape_than_the_running_one_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAB_VARIABLE, str(tmp_path))
    monkeypatch.setattr("axoneme.lab.laboratory.running", lambda present: [present])
    monkeypatch.setattr("axoneme.lab.cli._already_up", lambda _: click.echo("already up"))
    state.LabState(root=tmp_path, topology=topology.from_flags(), token="t").save()
    for words in (["--clusters", "2"], ["--control-plane"], ["--pods", "web"]):
        assert root.main(["lab", "up", *words]) == 1
        assert "a lab of another shape is up: `axoneme lab down` first" in capsys.readouterr().err
    for words in ([], ["--nodes", "2"]):
        assert root.main(["lab", "up", *words]) == 0
        assert capsys.readouterr().out == "already up\n"
