"""`axoneme policy test` and `axoneme policy validate` as people and CI systems run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from services.policy.cases.junit import junit_xml
from services.policy.cases.testreport import FileResult
from services.policy.cases.testrun import CaseResult, Failure
from services.policy.cli import policy

EXAMPLES = Path(__file__).parents[4] / "examples"
GOOD = """
- id: first
  endpoints: {a: {}, b: {}}
  flows: [{from: a, to: b, port: 80, expect: {egress: allow, ingress: allow}}]
- id: second
  endpoints: {a: {}, b: {}}
  flows:
    - {from: a, to: b, port: 80, expect: {egress: deny}}
- id: third
  endpoints: {a: {}}
  flows: [{from: a, to: a, port: 80, expect: {egress: deny}}]
"""


def run(*arguments: str, stdin: str | None = None) -> Result:
    """Run a command of the group."""
    return CliRunner().invoke(policy, list(arguments), input=stdin)


@pytest.mark.parametrize("name", ["dns", "flows", "matrix"])
def test_examples_pass(name: str) -> None:
    """The documented examples are true."""
    result = run("test", str(EXAMPLES / "policytests" / f"{name}.yaml"))
    assert result.exit_code == 0, result.output
    assert "passed" in result.stdout.splitlines()[-1]
    assert result.stdout.count("PASS") == {"dns": 1, "flows": 4, "matrix": 1}[name]


def test_failures_are_told_with_their_place() -> None:
    """Code 1, and what was expected, found and why."""
    result = run("test", "-", stdin=GOOD)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:5] == [
        "PASS <stdin>: first (1 flow)",
        "FAIL <stdin>:5: second",
        "  a -> b TCP/80, egress: expected deny, got allow",
        "    no policy locks egress of a",
        "    at <stdin>:8",
    ]
    assert result.stdout.splitlines()[-1].startswith("2 of 3 cases failed, 3 flows")


def test_filter_quiet_and_fail_fast() -> None:
    """Only what is asked for is run and said."""
    assert run("test", "-", "-k", "first", stdin=GOOD).exit_code == 0
    quiet = run("test", "-", "-q", stdin=GOOD).stdout
    assert "PASS" not in quiet
    assert quiet.count("FAIL") == 2
    assert run("test", "-", "--fail-fast", stdin=GOOD).stdout.count("FAIL") == 1
    nothing = run("test", "-", "-k", "nowhere", stdin=GOOD)
    assert nothing.exit_code == 2
    assert "no case has 'nowhere' in its name" in nothing.stderr


def test_bad_files(tmp_path: Path) -> None:
    """Code 2, with file, line and path."""
    result = run("test", "-", stdin=GOOD.replace("port: 80, expect: {egress: deny}", "prot: 80", 1))
    assert result.exit_code == 2
    assert "Error: <stdin>:8: [1].flows[0].prot: unknown key 'prot'" in result.stderr
    assert run("test", str(tmp_path / "absent.yaml")).exit_code == 2
    assert "holds no file" in run("test", str(tmp_path)).stderr
    (tmp_path / "latin.yaml").write_bytes(b"\xff")
    assert "is not UTF-8 text" in run("test", str(tmp_path)).stderr
    assert run("test").exit_code == 2


def test_json_and_junit(tmp_path: Path) -> None:
    """The same results for programs, from a directory."""
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.json").write_text(json.dumps({"id": "j", "endpoints": {"a": {}}, "flows": []}))
    report = tmp_path / "report.xml"
    result = run("test", str(tmp_path), "-o", "json", "--junit", str(report))
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["passed"], answer["failed"]) == (2, 2)
    failure = answer["files"][0]["cases"][1]["failures"][0]
    assert (failure["expected"], failure["actual"], failure["line"]) == ("deny", "allow", 8)
    suites = ET.fromstring(report.read_text())
    assert {key: suites.get(key) for key in ("tests", "failures")} == {"tests": "4", "failures": "2"}
    failed = [one.get("name") for one in suites.iter("testcase") if one.find("failure") is not None]
    assert failed == ["second", "third"]
    assert run("test", "-", "--junit", str(tmp_path), stdin=GOOD).exit_code == 2


def test_junit_holds_any_text() -> None:
    """What XML cannot say is replaced, so that the report can be read."""
    failure = Failure("a\x00 -> b", "ingress", "<allow>", "deny\ud800", "by & by")
    case = CaseResult(name='"quoted" \x1b[0m', line=1, flows=1, failures=(failure,))
    text = junit_xml([FileResult(name="f", cases=(case,))])
    element = ET.fromstring(text.encode()).find("testsuite/testcase/failure")
    assert element is not None
    assert element.get("message") == "a? -> b, ingress: expected <allow>, got deny? (by & by)"


def test_validate(tmp_path: Path) -> None:
    """Warnings end with 0, faults with 1; directories are searched."""
    assert run("validate", str(EXAMPLES / "policies")).exit_code == 0
    bad = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  ingress: [{}]\n"
    (tmp_path / "bad.yml").write_text(bad)
    result = run("validate", str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith(f"{tmp_path / 'bad.yml'}:5: error: spec: ")
    assert result.stdout.splitlines()[-1] == "1 file, 1 error, 0 warnings"
    answer = json.loads(run("validate", "-", "-o", "json", stdin=bad).stdout)
    assert answer["findings"][0]["file"] == "<stdin>"
    assert run("validate", str(tmp_path / "absent")).exit_code == 1


def test_the_commands_need_no_grpc() -> None:
    """They start quickly, and run where no cluster is."""
    code = f"""
import sys
from click.testing import CliRunner
from services.policy.cli import policy
for words in (['test', {str(EXAMPLES / "policytests")!r}], ['validate', {str(EXAMPLES / "policies")!r}]):
    assert CliRunner().invoke(policy, words).exit_code == 0
sys.exit('grpc' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent, check=False)
    assert done.returncode == 0
