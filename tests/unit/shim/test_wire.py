"""The subscriber's codecs: what is well formed comes through, what is not fails alone under its key."""

from __future__ import annotations

import pytest

from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.intent.v1 import intent_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.intent import Ack, Failure, Hello, Interest, Resync
from axoneme.lib.policy.model import (
    Action,
    AuthMode,
    CidrDefinition,
    Direction,
    Entity,
    EntitySelector,
    FqdnDefinition,
    IdentityPeer,
    LabelsDefinition,
    NamedPort,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policycodec import encode_change
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from shim.nodeipcache import IdentityEntry, PrefixEntry
from shim.wire import IpcacheCodec, NodesCodec, PoliciesCodec
from tests.unit.shim.memorynode import MemoryNode, allow, policy, rule, wanted

HEADER = intent_pb2.UpdateHeader(nonce=1, epoch=5, revision=9, snapshot_part=1, snapshot_last=True)


def nothing(key: str) -> None:
    return None


def test_ipcache_update() -> None:
    message = identity_pb2.SubscribeIpcacheResponse(
        header=HEADER,
        identity_upserts=[
            identity_pb2.Identity(identity=70_000, labels=["k8s:app=web"]),
            identity_pb2.Identity(identity=70_001, labels=["k8s:app=a", "k8s:app=b"]),
        ],
        upserts=[
            identity_pb2.IpcacheEntry(prefix="10.1.0.2/32", identity=70_000, tunnel_endpoint="192.0.2.1"),
            identity_pb2.IpcacheEntry(prefix="fd00::2/128", identity=70_000),
            identity_pb2.IpcacheEntry(prefix="10.1.0.2/24", identity=70_000),
            identity_pb2.IpcacheEntry(prefix="10.1.0.3/32", identity=0),
            identity_pb2.IpcacheEntry(prefix="10.1.0.4/32", identity=7, tunnel_endpoint="nowhere"),
        ],
        removed_prefixes=["10.1.0.9/32"],
        removed_identities=[70_009],
    )
    update = IpcacheCodec().decode(message, nothing)
    values = {change.key: change.value for change in update.changes}
    assert list(values) == [
        "identity:70000",
        "prefix:10.1.0.2/32",
        "prefix:fd00::2/128",
        "prefix:10.1.0.9/32",
        "identity:70009",
    ]
    assert isinstance(values["identity:70000"], IdentityEntry)
    assert values["prefix:10.1.0.2/32"] == PrefixEntry(
        prefix="10.1.0.2/32", identity=70_000, tunnel_endpoint="192.0.2.1"
    )
    assert values["identity:70009"] is None
    assert set(update.failures) == {
        "identity:70001",
        "prefix:10.1.0.2/24",
        "prefix:10.1.0.3/32",
        "prefix:10.1.0.4/32",
    }


def test_nodes_update() -> None:
    message = identity_pb2.SubscribeNodesResponse(
        header=HEADER,
        upserts=[
            identity_pb2.Node(
                name="n2", cluster="east", internal_ips=["192.0.2.2"], pod_cidrs=["10.2.0.0/24"]
            ),
            identity_pb2.Node(name="n3", cluster="east", pod_cidrs=["10.3.0.1/24"]),
        ],
        removed_nodes=["east/n9"],
    )
    update = NodesCodec().decode(message, nothing)
    assert [change.key for change in update.changes] == ["node:east/n2", "node:east/n9"]
    assert set(update.failures) == {"node:east/n3"}


def test_policies_update_builds_on_what_is_held() -> None:
    before, after = allow(IdentityPeer(70_001)), allow(IdentityPeer(70_002))
    message = policy_pb2.SubscribeEndpointPoliciesResponse(
        header=HEADER,
        changes=[encode_change("subject:70000", after, before)],
        removed_subjects=[policy_pb2.Subject(identity=70_009)],
    )
    update = PoliciesCodec().decode(message, {"subject:70000": before}.get)
    assert {change.key: change.value for change in update.changes} == {
        "subject:70000": after,
        "subject:70009": None,
    }
    without = PoliciesCodec().decode(message, nothing)
    assert without.failures["subject:70000"].reason == "DIGEST_MISMATCH"


@pytest.mark.parametrize("damage", ["action", "direction", "peer", "ports", "enforcement"])
def test_what_this_version_does_not_know_fails_the_subject(damage: str) -> None:
    change = encode_change("subject:70000", allow(IdentityPeer(70_001)))
    entry = change.added[0]
    if damage == "action":
        entry.action = 77  # type: ignore[assignment]
    elif damage == "direction":
        entry.direction = 0  # type: ignore[assignment]
    elif damage == "peer":
        entry.peer.Clear()
    elif damage == "ports":
        entry.ports.Clear()
    else:
        change.header.ingress = 9  # type: ignore[assignment]
    message = policy_pb2.SubscribeEndpointPoliciesResponse(header=HEADER, changes=[change])
    update = PoliciesCodec().decode(message, nothing)
    assert update.changes == ()
    assert update.failures["subject:70000"].code in ("UNIMPLEMENTED", "INVALID_ARGUMENT")


@pytest.mark.parametrize("codec", [IpcacheCodec(), NodesCodec(), PoliciesCodec()])
def test_a_header_without_nonce_is_a_broken_envelope(
    codec: IpcacheCodec | NodesCodec | PoliciesCodec,
) -> None:
    response = {
        IpcacheCodec: identity_pb2.SubscribeIpcacheResponse,
        NodesCodec: identity_pb2.SubscribeNodesResponse,
        PoliciesCodec: policy_pb2.SubscribeEndpointPoliciesResponse,
    }[type(codec)]()
    with pytest.raises(ValueError, match="nonce"):
        codec.decode(response, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", [IpcacheCodec(), NodesCodec(), PoliciesCodec()])
def test_requests(codec: IpcacheCodec | NodesCodec | PoliciesCodec) -> None:
    assert codec.hello(Hello(node_name="n1", epoch=1, revision=2)).hello.revision == 2
    failures = {"prefix:x": Failure("UNAVAILABLE", "MAP_WRITE_FAILED", "no")}
    assert codec.ack(Ack(nonce=3, revision=2, failures=failures)).ack.failures[0].key == "prefix:x"
    assert codec.resync(Resync(reason="REVISION_GAP")).resync.reason == "REVISION_GAP"
    interest = Interest(added=("subject:70000",), removed=("subject:70001",))
    if isinstance(codec, PoliciesCodec):
        assert codec.interest(interest).interest.added[0].identity == 70_000
    else:
        with pytest.raises(TypeError):
            codec.interest(interest)


@pytest.mark.parametrize(
    ("prefix", "address"), [("10.0.0.0/8", "10.1.2.3"), ("2001:db8::/32", "2001:db8::7")]
)
async def test_a_policy_with_every_kind_of_definition_comes_from_the_wire_into_maps(
    prefix: str, address: str
) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted(named_ports=((6, "http", 80),)))
    api_server = LabelSelector.of(Requirement.of("reserved:kube-apiserver", Operator.EXISTS))
    one = policy(
        rule(SelectorPeer("cidr"), ports=NamedPort(6, "http")),
        rule(SelectorPeer("dns"), direction=Direction.EGRESS, auth=AuthMode.DISABLED),
        rule(SelectorPeer("labels"), Action.DENY),
        rule(SelectorPeer("world"), Action.DENY, one_port(6, 81), audit=True),
        cidr=CidrDefinition(include=(prefix,)),
        dns=FqdnDefinition("example.com"),
        labels=LabelsDefinition((api_server,)),
        world=EntitySelector(Entity.WORLD),
    )
    key = f"subject:{endpoint.identity}"
    codec, held = PoliciesCodec(), dict[str, SubjectPolicy]()
    for after in (one, policy(), one):
        change = encode_change(key, after, held.get(key))
        message = policy_pb2.SubscribeEndpointPoliciesResponse(header=HEADER, changes=[change])
        update = codec.decode(message, held.get)
        assert update.failures == {}
        [decoded] = update.changes
        assert decoded.value == after
        held[key] = decoded.value
        assert await node.policies.apply({key: decoded.value}, (), complete=True) == {}
    shown = [node.verdict(endpoint, Direction.INGRESS, address, 6, port) for port in (80, 81, 82)]
    assert shown == ["allow", "none", "none"]
