"""What `axoneme policy …` says about a running cluster, held against what its packets do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e import enginepolicies as written
from tests.e2e.outside import ELSEWHERE, EXCEPTED, INSIDE
from tests.e2e.policies import ALLOW_FRONTEND, DENY_FRONTEND
from tests.e2e.probes import Way, expect, party
from tests.e2e.running import Running
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]


@pytest.fixture
def allow_frontend(tmp_path: Path) -> str:
    """The policy as a file."""
    file = tmp_path / "allow-frontend.yaml"
    file.write_text(ALLOW_FRONTEND)
    return str(file)


def test_applying_twice_changes_nothing_and_another_namespace_is_refused(
    lab: Running, allow_frontend: str
) -> None:
    first = lab.command("policy", "apply", "-f", allow_frontend)
    assert first.out == "ciliumnetworkpolicy/allow-frontend created (namespace default)\n"
    assert "switches default deny on for ingress of 1 identity" in first.err
    revision = lab.policy_status("CiliumNetworkPolicy", "default", "allow-frontend").revision
    again = lab.command("policy", "apply", "-f", allow_frontend)
    assert again.out == "ciliumnetworkpolicy/allow-frontend unchanged (namespace default)\n"
    refused = lab.command("policy", "apply", "-n", "other", "-f", allow_frontend, code=1)
    assert "is in namespace default, not other" in refused.err
    assert lab.policy_status("CiliumNetworkPolicy", "default", "allow-frontend").revision == revision


def test_status_counts_the_nodes_that_acknowledged(lab: Running, allow_frontend: str) -> None:
    lab.command("policy", "apply", "-f", allow_frontend)
    lab.store(written.CLUSTER_WIDE)

    def standing() -> list[list[str]]:
        rows = json.loads(lab.command("policy", "status", "-o", "json").out)
        return [
            [row["policy"]["name"], f"{row['acknowledged_nodes']}/{row['expected_nodes']}"] for row in rows
        ]

    wanted = [["no-batch", "2/2"], ["allow-frontend", "1/1"]]
    eventually_sync(lambda: standing() == wanted, message="all nodes acknowledge")
    shown = lab.command("policy", "status")
    assert "2/2 nodes" in shown.out
    assert "Pending" not in shown.err
    # The kernel has it by then.
    frontend, batch, backend, near = (
        party(lab, name) for name in ("frontend", "batch", "backend", "backend-near")
    )
    expect(passes=[(frontend, backend)], stops=[(batch, backend), (batch, near)])


def test_selectors_list_whom_they_select(lab: Running) -> None:
    lab.in_force(ALLOW_FRONTEND)
    numbers = {one.pod_name: one.identity for one in lab.endpoints()}
    found = {
        one["text"]: one["identities"]
        for one in json.loads(lab.command("policy", "selectors", "-o", "json").out)
    }
    suffix = " and k8s:io.kubernetes.pod.namespace In (default)"
    assert found == {
        f"any:app In (backend){suffix}": [numbers["backend"]],
        f"any:app In (frontend){suffix}": [numbers["frontend"]],
    }


def test_an_explanation_agrees_with_the_packets_and_names_the_rule(lab: Running) -> None:
    frontend, batch, backend = (party(lab, name) for name in ("frontend", "batch", "backend"))
    for text in (ALLOW_FRONTEND, written.CLUSTER_WIDE):
        lab.in_force(text)
    ways: dict[Way, tuple[str, str]] = {
        (frontend, backend): ("ALLOW", "spec.ingress[0] of CiliumNetworkPolicy default/allow-frontend"),
        (batch, backend): ("DENY", "spec.ingressDeny[0] of CiliumClusterwideNetworkPolicy no-batch"),
        (batch, frontend): ("ALLOW", "no policy locks ingress"),
    }
    for (source, target, *_), (verdict, reason) in ways.items():
        for family in (0, 1):
            shown = explained(lab, f"default/{source.name}", target.ips[family])
            assert shown.splitlines()[0].endswith(f": {verdict}"), shown
            assert reason in shown
        assert reason in explained(lab, f"default/{source.name}", f"default/{target.name}")
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])


def test_an_explanation_of_an_address_outside_names_its_prefix(lab: Running) -> None:
    lab.in_force(written.EGRESS_EXCEPT)
    for family in (0, 1):
        inside = explained(lab, "default/frontend", INSIDE.ips[family])
        assert inside.splitlines()[0].endswith(": ALLOW"), inside
        assert "decided by: spec.egress[0] of CiliumNetworkPolicy default/out-except" in inside
        for where in (EXCEPTED, ELSEWHERE):
            shown = explained(lab, "default/frontend", where.ips[family])
            assert shown.splitlines()[0].endswith(": DENY"), shown


def explained(lab: Running, source: str, target: str) -> str:
    return lab.command("policy", "explain", "--from", source, "--to", target, "--port", "8080/tcp").out


def test_a_dry_run_says_what_would_change_and_stores_nothing(lab: Running, allow_frontend: str) -> None:
    shown = lab.command("policy", "diff", "-f", allow_frontend, code=1)
    assert "ingress every other peer any port: allow -> deny" in shown.out
    assert "any port (not 8080/TCP, 9000/TCP, 9001/UDP): allow -> deny" in shown.out
    assert shown.out.endswith("verdicts of 1 subjects would change\n")
    assert json.loads(lab.command("policy", "list", "-o", "json").out)["items"] == []
    lab.in_force(ALLOW_FRONTEND)
    assert lab.command("policy", "diff", "-f", allow_frontend).out.startswith("0 verdicts")
    expect(stops=[(party(lab, "batch"), party(lab, "backend"))])


def test_recorded_flows_are_judged_by_a_candidate(lab: Running, allow_frontend: str, tmp_path: Path) -> None:
    frontend, batch, backend = (party(lab, name) for name in ("frontend", "batch", "backend"))
    expect(passes=[(frontend, backend), (batch, backend)])
    recording, total = recorded(lab, tmp_path)

    replay = ("policy", "diff", "-f", allow_frontend)
    shown = lab.command(*replay, "--flows", str(recording), code=1).out
    assert shown.endswith(f"{total // 2} of {total} flows would change\n"), shown
    assert "k8s:app=batch" in shown
    assert "k8s:app=frontend" not in shown
    since = lab.command(*replay, "--since", "10m", code=1).out
    assert since.splitlines()[-1].endswith("flows would change")

    lab.in_force(ALLOW_FRONTEND)
    expect(passes=[(frontend, backend)], stops=[(batch, backend)])
    assert lab.command(*replay, "--flows", str(recording)).out == f"0 of {total} flows would change\n"
    assert lab.command(*replay, "--since", "10m").out.startswith("0 of ")
    denied = tmp_path / "deny.yaml"
    denied.write_text(DENY_FRONTEND)
    both = lab.command("policy", "diff", "-f", str(denied), "--flows", str(recording), code=1).out
    assert both.endswith(f"{total // 2} of {total} flows would change\n"), both


def recorded(lab: Running, directory: Path) -> tuple[Path, int]:
    """The newest verdict on each way to backend, as `observe -o jsonpb` writes it; and their number."""
    sources = [lab.ip(pod, version) for pod in ("frontend", "batch") for version in (4, 6)]

    def complete() -> list[str] | None:
        words = ("--last", "50", "--to-pod", "default/backend", "--type", "policy-verdict")
        lines = lab.command("observe", "-o", "jsonpb", *words, "--traffic-direction", "ingress").out
        newest = {json.loads(line)["flow"]["IP"]["source"]: line for line in lines.splitlines()}
        return [newest[ip] for ip in sources] if newest.keys() >= {*sources} else None

    lines = eventually_sync(complete, message="a verdict on each way to backend")
    assert lines is not None
    file = directory / "flows.json"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file, len(lines)
