"""The commands of `axoneme policy` that ask a service: what they send, print and exit with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from tests.unit.services.policy.fakeclient import NAME, POLICY, RULE, Fake, install_fake, run


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


EXPLAINED = pb.ExplainFlowResponse(
    verdict=pb.VERDICT_DENY,
    source=pb.ResolvedParty(identity=300, labels=["k8s:app=a"]),
    destination=pb.ResolvedParty(labels=["reserved:world-ipv6"], prefix="2001:db8::/32"),
    egress=pb.DirectionVerdict(
        verdict=pb.VERDICT_DENY,
        entry=pb.WinningEntry(
            identity=0,
            ports=pb.PortMatch(ports=pb.ProtocolPorts(protocol=6, port=443, prefix_length=16)),
            action=pb.ACTION_DENY,
            precedence=0xEFFFFFFF,
        ),
        winners=[RULE],
        losers=[
            pb.RuleReference(policy=NAME, rule="spec.egress[1]", action=pb.ACTION_ALLOW, note="a deny wins")
        ],
        default_deny=[pb.RuleReference(policy=NAME, rule="spec.egress[0]", action=pb.ACTION_DENY)],
        reason="denied by a rule",
        fix="apply this policy:\nkind: X\nspec: {}\n",
    ),
)


def test_explain_in_words(capsys: pytest.CaptureFixture[str], fake: Fake) -> None:
    """The verdict, both parties, each direction with its rules, and the fix."""
    fake.answers["ExplainFlow"] = EXPLAINED
    arguments = ("explain", "--from", "default/a", "--to", "2001:db8::1", "--port", "443/tcp", "--dns", "x.y")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "default/a -> 2001:db8::1 TCP/443: DENY",
        "  from: identity 300 (k8s:app=a)",
        "  to: no identity, prefix 2001:db8::/32 (reserved:world-ipv6)",
        "egress: deny: denied by a rule",
        "  entry: every peer, 443/TCP: deny, precedence 0xefffffff",
        "  decided by: spec.ingress[0] of CiliumNetworkPolicy default/web (allow)",
        "  matched and lost: spec.egress[1] of CiliumNetworkPolicy default/web (allow): a deny wins",
        "  default deny because of: spec.egress[0] of CiliumNetworkPolicy default/web (deny)",
        "  fix: apply this policy:",
        "    kind: X",
        "    spec: {}",
        "ingress: the receiver has no policy of its own",
    ]
    (asked,) = fake.asked
    assert (asked.source.pod.name, asked.destination.ip) == ("a", "2001:db8::1")
    assert (asked.protocol, asked.port) == (6, 443)
    assert list(asked.destination.dns_names) == ["x.y"]


def test_explain_redirects_and_json(capsys: pytest.CaptureFixture[str], fake: Fake) -> None:
    """The proxy and the proof are named; JSON has the field names of the API."""
    side = pb.DirectionVerdict(
        verdict=pb.VERDICT_REDIRECT, parser="http", auth=pb.AUTH_MODE_REQUIRED, reason="because"
    )
    fake.answers["ExplainFlow"] = pb.ExplainFlowResponse(verdict=pb.VERDICT_REDIRECT, ingress=side)
    arguments = ("explain", "--from", "app=a", "--to", "300", "--port", "80")
    _, out, _ = run(capsys, *arguments)
    assert "ingress: redirect to the http proxy, authentication required: because" in out
    _, out, _ = run(capsys, *arguments, "-o", "json")
    assert json.loads(out)["ingress"]["verdict"] == "VERDICT_REDIRECT"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--from", "x", "--to", "a/b", "--port", "1"), 1, "--from: 'x' is nobody"),
        (("--from", "a/b", "--to", "x", "--port", "1"), 1, "--to: 'x' is nobody"),
        (("--from", "a/b", "--to", "a/c", "--port", "http"), 1, "--port: 'http' is no port"),
        (("--from", "a/b", "--to", "a/c"), 2, "--port"),
    ],
)
def test_explain_refusals(
    capsys: pytest.CaptureFixture[str], fake: Fake, arguments: tuple[str, ...], code: int, text: str
) -> None:
    """Before anything is asked."""
    found, _, err = run(capsys, "explain", *arguments)
    assert found == code
    assert text in err
    assert not fake.asked


TIERED = pb.PolicyName(kind="ClusterNetworkPolicy", name="x")
STATUS = [
    pb.PolicyStatus(
        policy=NAME,
        accepted=True,
        revision=7,
        subjects=2,
        expected_nodes=3,
        acknowledged_nodes=1,
        pending=[pb.NodeLag(node_name="n2"), pb.NodeLag(node_name="n3", reason="the map is full")],
        warnings=["a trap"],
    ),
    pb.PolicyStatus(
        policy=pb.PolicyName(kind="ClusterNetworkPolicy", name="x"), problem="not JSON", audit=True
    ),
]


def pages(items: list[Any], field: str, message: type[Any]) -> Any:
    """Answers of one item each."""

    def answer(request: Any) -> Any:
        place = int(request.page_token or 0)
        token = str(place + 1) if place + 1 < len(items) else ""
        return message(**{field: items[place : place + 1]}, next_page_token=token)

    return answer


def test_status(capsys: pytest.CaptureFixture[str], fake: Fake) -> None:
    """A table of all pages on stdout; problems, pending nodes and warnings on stderr."""
    fake.answers["GetPolicyStatus"] = pages(STATUS, "policies", pb.GetPolicyStatusResponse)
    code, out, err = run(capsys, "status")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["POLICY", "ACCEPTED", "IN", "FORCE", "REVISION", "IDENTITIES", "MODE"],
        ["CiliumNetworkPolicy", "default/web", "yes", "1/3", "nodes", "7", "2", "enforced"],
        ["ClusterNetworkPolicy", "x", "no", "0/0", "nodes", "0", "0", "audit"],
    ]
    assert err.splitlines() == [
        "Pending: CiliumNetworkPolicy default/web: node n2: has not answered yet",
        "Pending: CiliumNetworkPolicy default/web: node n3: the map is full",
        "Warning: CiliumNetworkPolicy default/web: a trap",
        "Problem: ClusterNetworkPolicy x: not JSON",
    ]
    _, out, _ = run(capsys, "status", "-n", "shop", "-o", "json")
    assert [one["policy"]["name"] for one in json.loads(out)] == ["web", "x"]
    assert fake.asked[-1].namespace == "shop"


def test_status_of_one(capsys: pytest.CaptureFixture[str], fake: Fake) -> None:
    """By reference; one that is not there is an error."""
    fake.answers["GetPolicyStatus"] = pb.GetPolicyStatusResponse()
    code, _, err = run(capsys, "status", "ccnp/x")
    assert code == 1
    assert "policy ccnp/x does not exist" in err
    asked = fake.asked[-1]
    assert (asked.kind, asked.namespace, asked.name) == ("CiliumClusterwideNetworkPolicy", "", "x")
    assert run(capsys, "status")[::2] == (0, "no policies\n")


def test_selectors(capsys: pytest.CaptureFixture[str], fake: Fake) -> None:
    """Text, uses, count and the first identities."""
    uses = [
        pb.SelectorUse(text="any:app in (a)", uses=2, identity_count=1, identities=[300]),
        pb.SelectorUse(text="cidr:10.0.0.0/8", uses=1),
        pb.SelectorUse(text="everything", uses=1, identity_count=40, identities=range(1, 41)),
    ]
    fake.answers["ListSelectors"] = pages(uses, "selectors", pb.ListSelectorsResponse)
    code, out, _ = run(capsys, "selectors", "--filter", "a")
    assert code == 0
    assert out.splitlines()[1:] == [
        "any:app in (a)   2     1      300",
        "cidr:10.0.0.0/8  1     0      -",
        "everything       1     40     1,2,3,4,5,6,7,8,9,10,…",
    ]
    assert fake.asked[0].filter == "a"
    assert len(json.loads(run(capsys, "selectors", "-o", "json")[1])) == 3
    fake.answers["ListSelectors"] = pb.ListSelectorsResponse()
    assert run(capsys, "selectors")[2] == "no selectors\n"


def test_apply_shows_what_changed(capsys: pytest.CaptureFixture[str], fake: Fake, file: str) -> None:
    """The words of kubectl, the values that differ, the warnings on stderr."""
    applied = pb.AppliedPolicy(
        policy=pb.Policy(kind=NAME.kind, namespace="default", name="web"),
        outcome=pb.AppliedPolicy.OUTCOME_CONFIGURED,
        changes=['spec.x: "a" -> "b"'],
        warnings=["a trap"],
    )
    created = pb.AppliedPolicy.OUTCOME_CREATED
    wide = pb.AppliedPolicy(
        policy=pb.Policy(kind="CiliumClusterwideNetworkPolicy", name="w"), outcome=created
    )
    fake.answers["ApplyPolicy"] = pb.ApplyPolicyResponse(policies=[applied, wide])
    code, out, err = run(capsys, "apply", "-f", file, "-n", "default")
    assert (code, err) == (0, "Warning: ciliumnetworkpolicy/web: a trap\n")
    assert out.splitlines() == [
        "ciliumnetworkpolicy/web configured (namespace default)",
        '  spec.x: "a" -> "b"',
        "ciliumclusterwidenetworkpolicy/w created",
    ]
    asked = fake.asked[0]
    assert (asked.namespace, asked.only_namespace, asked.text) == ("default", True, POLICY)
    run(capsys, "apply", "-f", file)
    assert not fake.asked[1].only_namespace


def test_delete_of_every_kind(capsys: pytest.CaptureFixture[str], fake: Fake) -> None:
    """Cluster-wide kinds have no namespace."""
    fake.answers["DeletePolicy"] = pb.DeletePolicyResponse()
    code, out, _ = run(capsys, "delete", "web", "netpol/shop/np", "ccnp/wide", "ccg/partners", "-n", "team")
    assert code == 0
    assert out.splitlines() == [
        "ciliumnetworkpolicy/web deleted (namespace team)",
        "networkpolicy/np deleted (namespace shop)",
        "ciliumclusterwidenetworkpolicy/wide deleted",
        "ciliumcidrgroup/partners deleted",
    ]
    assert run(capsys, "delete", "ccnp/default/wide")[0] == 2
    assert run(capsys, "delete")[0] == 2
