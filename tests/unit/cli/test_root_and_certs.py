"""The root command, rendering, and `axoneme certs`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from axoneme.cli import main as root
from axoneme.cli import render
from axoneme.lib.errors import InvalidArgument


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = root.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name, entry in root.COMMANDS.items():
        assert f"  {name} " in out
        assert entry.help[:30] in out
    assert all(entry.group in out for entry in root.COMMANDS.values())


def test_help_imports_neither_grpc_nor_commands() -> None:
    code = (
        "import sys\nfrom axoneme.cli.main import main\nmain(['--help'])\n"
        "heavy = {'grpc', 'google.protobuf', 'rich', 'cryptography', 'yaml', 'numpy', 'services', 'shim'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_script(shell: str) -> None:
    script = "import sys\nfrom axoneme.cli.main import main\nsys.exit(main())"
    environ = {"_AXONEME_COMPLETE": f"{shell}_source", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False
    )
    assert "axoneme" in done.stdout


def test_completion_of_commands() -> None:
    items = root.RootCommand("axoneme").shell_complete(click.Context(root.root), "po")
    assert [item.value for item in items] == ["policy"]


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise InvalidArgument("two\nlines", violations=[("spec.egress", "unknown")], reason="BAD")

    monkeypatch.setattr(root.RootCommand, "get_command", lambda *_: failing)
    code, _, err = run(capsys, "policy")
    assert (code, err) == (1, "Error: two lines; spec.egress: unknown (BAD)\n")


def test_grpc_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import grpc
    import grpc.aio

    @click.command()
    def failing() -> None:
        metadata = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, metadata, metadata, "no such policy")

    monkeypatch.setattr(root.RootCommand, "get_command", lambda *_: failing)
    code, _, err = run(capsys, "policy")
    assert (code, err) == (1, "Error: no such policy (NOT_FOUND)\n")


def test_unknown_command_and_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "nothing")[0] == 2
    assert run(capsys, "certs", "ca")[0] == 2


def test_certs_end_to_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ca, out = str(tmp_path / "ca"), tmp_path / "node1"
    assert run(capsys, "certs", "ca", "--directory", ca, "--trust-domain", "east.mesh")[0] == 0
    issue = ["certs", "issue", "--ca", ca, "--role", "node", "--name", "node1", "--out", str(out)]
    code, text, _ = run(capsys, *issue, "--ttl", "12h", "--dns", "n.example", "--ip", "fd00::1")
    assert code == 0
    assert "spiffe://east.mesh/node/node1" in text
    code, text, _ = run(capsys, "certs", "show", str(out / "tls.crt"), "-o", "json")
    (row,) = json.loads(text)
    assert row["id"] == "spiffe://east.mesh/node/node1"
    assert {"node1.east.mesh", "node1.east.hubble-grpc.cilium.io", "n.example", "fd00::1"} <= set(
        row["names"]
    )
    assert row["state"].startswith("good for 11 hours")
    assert "not before" in run(capsys, "certs", "show", str(out / "tls.crt"))[1].lower()
    code, _, err = run(capsys, "certs", "ca", "--directory", ca, "--trust-domain", "east.mesh")
    assert code == 1
    assert err.count("\n") == 1
    assert run(capsys, *issue, "--ttl", "soon")[0] == 2
    code, _, err = run(capsys, "certs", "show", str(out / "tls.key"))
    assert (code, "no PEM certificate" in err) == (1, True)


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(
        ("name", "ips", "ready"), [("a", ["1", "2"], True), ("bcd", (), False), ("e", None, 1.25)]
    )
    out = capsys.readouterr().out
    assert out == "NAME  IPS  READY\na     1,2  yes\nbcd   -    no\ne     -    1.2\n"
    render.print_table(("name",), [], empty="no policies")
    assert capsys.readouterr().err == "no policies\n"


def test_json_of_messages(capsys: pytest.CaptureFixture[str]) -> None:
    from axoneme.api.identity.v1 import identity_pb2 as pb

    render.print_json({"identities": [pb.Identity(identity=256)]})
    assert json.loads(capsys.readouterr().out) == {"identities": [{"identity": 256, "labels": []}]}
