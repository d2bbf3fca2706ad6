"""`axoneme policy diff`: verdicts and recorded flows, and the exit codes that CI relies on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.cli.flowprinter_json import response_json
from axoneme.lib.errors import FieldViolation, InvalidArgument, NotFound, Unavailable
from tests.unit.services.policy.fakeclient import BY, POLICY, RULE, Fake, install_fake, run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Every command gets this client."""
    return install_fake(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A good policy."""
    path = tmp_path / "web.yaml"
    path.write_text(POLICY)
    return str(path)


def steps(*changes: pb.VerdictChange, subjects: int = 1, total: int = 0) -> list[pb.DiffPoliciesResponse]:
    """The answer of DiffPolicies."""
    count = total or len(changes)
    totals = pb.DiffTotals(changes=count, subjects=subjects if changes else 0, warnings=["a trap"])
    return [*(pb.DiffPoliciesResponse(change=one) for one in changes), pb.DiffPoliciesResponse(totals=totals)]


def change(**fields: Any) -> pb.VerdictChange:
    """A changed verdict."""
    port = pb.PortMatch(ports=pb.ProtocolPorts(protocol=6, port=80, prefix_length=16))
    usual: dict[str, Any] = {
        "subject": 300,
        "subject_labels": ["k8s:app=a"],
        "direction": pb.DIRECTION_INGRESS,
        "ports": port,
        "before": pb.VERDICT_DENY,
        "after": pb.VERDICT_ALLOW,
    }
    return pb.VerdictChange(**{**usual, **fields})


def test_diff_in_words(capsys: pytest.CaptureFixture[str], fake: Fake, file: str) -> None:
    """By subject; peers by number, prefix, labels or none; code 1."""
    https = pb.PortMatch(ports=pb.ProtocolPorts(protocol=6, port=443, prefix_length=16))
    fake.answers["DiffPolicies"] = steps(
        change(peer=301, peer_labels=["k8s:app=b"], rules=[RULE]),
        change(prefix="2001:db8::/32", peer_labels=["reserved:world-ipv6"]),
        change(
            peer_labels=["fqdn:a.b", "reserved:world-ipv4"], after=pb.VERDICT_REDIRECT, after_parser="dns"
        ),
        change(
            subject=302,
            subject_labels=["k8s:app=c"],
            ports=pb.PortMatch(any=pb.AnyPort()),
            without=[https],
            before=pb.VERDICT_ALLOW,
            after=pb.VERDICT_ALLOW,
            after_auth=pb.AUTH_MODE_REQUIRED,
        ),
        subjects=2,
        total=9,
    )
    deleted = ("--delete", "cnp/x/y", "--delete", "ccnp/z")
    code, out, err = run(capsys, "diff", "-f", file, *deleted, "--limit", "4")
    assert code == 1
    assert out.splitlines() == [
        "identity 300 (k8s:app=a)",
        f"  ingress identity 301 (k8s:app=b) 80/TCP: deny -> allow{BY}",
        "  ingress 2001:db8::/32 (reserved:world-ipv6) 80/TCP: deny -> allow",
        "  ingress fqdn:a.b, reserved:world-ipv4 80/TCP: deny -> redirect (dns)",
        "identity 302 (k8s:app=c)",
        "  ingress every other peer any port (not 443/TCP): allow -> allow (authentication required)",
        "… 5 more; see --limit",
        "9 verdicts of 2 subjects would change",
    ]
    assert err == "Warning: a trap\n"
    (asked,) = fake.asked
    assert asked.limit == 4
    assert [(one.kind, one.namespace, one.name) for one in asked.change.deleted] == [
        ("CiliumNetworkPolicy", "x", "y"),
        ("CiliumClusterwideNetworkPolicy", "", "z"),
    ]
    assert asked.change.text == POLICY


def test_diff_without_a_change(capsys: pytest.CaptureFixture[str], fake: Fake, file: str) -> None:
    """Code 0."""
    fake.answers["DiffPolicies"] = steps()
    assert run(capsys, "diff", "-f", file)[:2] == (0, "0 verdicts of 0 subjects would change\n")
    answer = steps(change(), total=2_000_000)
    answer[-1].totals.incomplete = True
    fake.answers["DiffPolicies"] = answer
    out = run(capsys, "diff", "-f", file)[1]
    assert out.endswith("at least 2000000 verdicts of at least 1 subjects would change\n")
    fake.answers["DiffPolicies"] = steps()
    code, out, _ = run(capsys, "diff", "--replace", "-o", "json")
    assert code == 0
    assert json.loads(out)["changes"] == []
    assert fake.asked[-1].change.replace_all


def test_diff_of_several_files(
    capsys: pytest.CaptureFixture[str], fake: Fake, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YAML, JSON and standard input become one text that is read as all of them."""
    from services.policy.reading.objects import parse_objects

    other = tmp_path / "other.json"
    name = {"name": "other", "namespace": "default"}
    spec: dict[str, Any] = {"endpointSelector": {}, "egress": [{}]}
    one = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": name, "spec": spec}
    other.write_text(json.dumps(one))
    stdin = io.TextIOWrapper(io.BytesIO(f"---\n{POLICY.replace('web', 'third')}".encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    fake.answers["DiffPolicies"] = steps()
    code, _, err = run(capsys, "diff", "-f", file, "-f", str(other), "-f", "-")
    assert code == 0, err
    assert [one.key.name for one in parse_objects(fake.asked[0].change.text)] == ["web", "other", "third"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "name policies with -f"),
        (("--delete", "a/b/c/d"), "is no policy"),
        (("--delete", "x/y"), "is no kind of policy"),
        (("-f", "/nowhere"), "No such file"),
        (("-f", "-", "--flows", "-"), "standard input can be read once only"),
        (("--delete", "a", "--flows", "x", "--since", "1h"), "exclude each other"),
        (("--delete", "a", "--flows", "/nowhere"), "--flows /nowhere: No such file"),
        (("--delete", "a", "--since", "soon"), "soon"),
        (("--delete", "a", "--limit", "0"), "--limit"),
    ],
)
def test_diff_errors_have_code_two(
    capsys: pytest.CaptureFixture[str], fake: Fake, arguments: tuple[str, ...], text: str
) -> None:
    """1 means that something changes, so it must not mean an error too."""
    code, _, err = run(capsys, "diff", *arguments)
    assert code == 2
    assert text in err
    assert not fake.asked


@pytest.mark.parametrize(
    "error",
    [
        NotFound("policy x does not exist"),
        Unavailable("gone"),
        InvalidArgument("no", violations=[FieldViolation("text", "line 3: no")]),
    ],
)
def test_diff_errors_of_the_service_too(
    capsys: pytest.CaptureFixture[str], fake: Fake, file: str, error: Exception
) -> None:
    """Whatever the service says."""
    fake.answers["DiffPolicies"] = error
    code, out, err = run(capsys, "diff", "-f", file)
    assert (code, out) == (2, "")
    assert str(error) in err


def test_faults_have_their_file_and_line(
    capsys: pytest.CaptureFixture[str], fake: Fake, file: str, tmp_path: Path
) -> None:
    """Those of the second file are counted from its own first line."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("ingress", "ingres"))
    code, _, err = run(capsys, "diff", "-f", file, "-f", str(bad))
    assert code == 2
    assert f"Error: {bad}:6: spec.ingres: unknown key 'ingres'; did you mean ingress?" in err
    assert not fake.asked


def recorded(second: int, port: int = 80, **fields: Any) -> observer_pb2.GetFlowsResponse:
    """A flow of the observer."""
    flow = {
        "time": f"2026-03-01T10:00:{second:02d}Z",
        "IP": {"source": "10.1.0.5", "destination": "2001:db8::7"},
        "l4": {"TCP": {"source_port": 4000 + second, "destination_port": port}},
        "source": {"identity": 300, "labels": ["k8s:app=a", "k8s:io.cilium.k8s.policy.cluster=east"]},
        "destination": {"identity": 10, "labels": ["reserved:world-ipv6"]},
        "destination_names": ["x.example.com"],
        **fields,
    }
    return json_format.ParseDict({"flow": flow}, observer_pb2.GetFlowsResponse())


FLOWS = [recorded(1), recorded(2), recorded(3, 443), recorded(4, 22), recorded(5, is_reply=True)]


def replayed(request: pb.ReplayFlowsRequest) -> pb.ReplayFlowsResponse:
    """80 closes, 443 stays open, 22 cannot be judged."""
    answer = pb.ReplayFlowsResponse()
    for flow in request.flows:
        outcome = answer.flows.add(before=pb.VERDICT_ALLOW, after=pb.VERDICT_ALLOW)
        if flow.port == 80:
            outcome.after = pb.VERDICT_DENY
            outcome.rules.append(RULE)
        elif flow.port == 22:
            outcome.CopyFrom(pb.ReplayedFlow(problem="source: identity 300 has no known labels"))
    return answer


TOLD = [
    "allow -> deny: 2 flows",
    f"       2  k8s:app=a -> 2001:db8::7 (x.example.com) 80/TCP{BY}",
    "2 of 4 flows would change",
]


def test_flows_of_a_file(capsys: pytest.CaptureFixture[str], fake: Fake, file: str, tmp_path: Path) -> None:
    """Equal flows are asked about once, counted each; replies are left out; problems are told."""
    flows = tmp_path / "flows.json"
    flows.write_text("".join(f"{response_json(one)}\n\n" for one in FLOWS))
    fake.answers["ReplayFlows"] = replayed
    code, out, err = run(capsys, "diff", "-f", file, "--flows", str(flows))
    assert code == 1
    assert out.splitlines() == TOLD
    assert "1 records left out" in err
    assert "Warning: 1 flows not judged: source: identity 300" in err
    (asked,) = fake.asked
    assert len(asked.flows) == 3
    assert fake.timeouts == [60.0]
    code, out, _ = run(capsys, "diff", "-f", file, "--flows", str(flows), "-o", "json")
    found = json.loads(out)
    assert (found["changed"], found["total"], found["skipped"]) == (2, 4, 1)
    assert found["flows"][0]["count"] == 2


def test_flows_of_the_relay(capsys: pytest.CaptureFixture[str], fake: Fake, file: str) -> None:
    """All flows since a time."""
    fake.answers |= {"ReplayFlows": replayed, "GetFlows": lambda _: iter(FLOWS)}
    code, out, _ = run(capsys, "diff", "-f", file, "--since", "1h")
    assert (code, out.splitlines()) == (1, TOLD)
    asked = fake.asked[0]
    assert asked.HasField("since")
    assert (asked.number, asked.follow) == (0, False)


def test_many_flows_go_in_batches(
    capsys: pytest.CaptureFixture[str], fake: Fake, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each flow once, in no more than the batches that it takes."""
    monkeypatch.setattr("services.policy.commands.diffcli.BATCH", 7)
    flows = [recorded(1, 1000 + number) for number in range(20)]
    fake.answers |= {"ReplayFlows": replayed, "GetFlows": lambda _: iter(flows)}
    code, out, _ = run(capsys, "diff", "-f", file, "--since", "1h")
    assert (code, out) == (0, "0 of 20 flows would change\n")
    assert [len(one.flows) for one in fake.asked[1:]] == [7, 7, 6]


def test_a_line_that_is_no_flow(
    capsys: pytest.CaptureFixture[str], fake: Fake, file: str, tmp_path: Path
) -> None:
    """The file and the line are named."""
    flows = tmp_path / "flows.json"
    flows.write_text(f"{response_json(FLOWS[0])}\n{{\n")
    code, _, err = run(capsys, "diff", "-f", file, "--flows", str(flows))
    assert code == 2
    assert f"--flows {flows}, line 2: not JSON" in err
