"""The method table, both ways: every method of every proto is in it, every (role, method) pair is as below.

The matrix below is written out a second time on purpose: a slip in the table must not change both.
"""

from __future__ import annotations

import pytest

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from axoneme.api.clustermesh.v1 import clustermesh_pb2
from axoneme.api.flows.v1 import flows_pb2
from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.hubble.peer import peer_pb2
from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib import methodroles
from axoneme.lib.roles import LOCAL_ADMIN, Role

assert grpcsettings.ENVIRONMENT

FILES: list[FileDescriptor] = [
    identity_pb2.DESCRIPTOR,
    policy_pb2.DESCRIPTOR,
    clustermesh_pb2.DESCRIPTOR,
    flows_pb2.DESCRIPTOR,
    fqdn_pb2.DESCRIPTOR,
    node_pb2.DESCRIPTOR,
    observer_pb2.DESCRIPTOR,
    peer_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
]
# Same messages under a newer name; grpcio-reflection ships v1alpha only.
WITHOUT_STUBS = {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}

CALLERS: dict[str, Role] = {
    "identity": Role("svc", "identity"),
    "policy": Role("svc", "policy"),
    "clustermesh": Role("svc", "clustermesh"),
    "fqdn": Role("svc", "fqdn"),
    "relay": Role("svc", "relay"),
    "etcd": Role("svc", "etcd"),
    "node": Role("node", "node1"),
    "peer": Role("peer", "west"),
    "reader": Role("user", "ann", "reader"),
    "admin": Role("user", "root", "admin"),
    "local": LOCAL_ADMIN,
}

EXPECTED = """
IdentityService/AllocateIdentity          node admin local
IdentityService/ReleaseIdentity           node admin local
IdentityService/GetIdentity               node reader admin local
IdentityService/ListIdentities            node reader admin local
IdentityService/WatchIdentities           node reader admin local
IdentityService/RegisterNode              node local
IdentityService/RenewNode                 node local
IdentityService/DeleteNode                node admin local
IdentityService/ListNodes                 node reader admin local relay
IdentityService/WatchNodes                node reader admin local relay
IdentityService/PublishAddresses          node local
IdentityService/WithdrawAddresses         node admin local
IdentityService/ListAddresses             node reader admin local
IdentityService/WatchAddresses            node reader admin local relay
IdentityService/SubscribeIpcache          node local
IdentityService/SubscribeNodes            node local
PolicyService/ApplyPolicy                 admin local
PolicyService/DeletePolicy                admin local
PolicyService/GetPolicy                   reader admin local
PolicyService/ListPolicies                reader admin local
PolicyService/WatchPolicies               reader admin local
PolicyService/GetSubjectPolicy            reader admin local
PolicyService/GetPolicyStatus             reader admin local
PolicyService/ListSelectors               reader admin local
PolicyService/ExplainFlow                 reader admin local
PolicyService/DiffPolicies                reader admin local
PolicyService/ReplayFlows                 reader admin local
PolicyService/AwaitIdentity               node local
PolicyService/SubscribeEndpointPolicies   node local
PolicyService/SubscribeDnsRules           node local
ClusterMeshService/ApplyService           admin local
ClusterMeshService/DeleteService          admin local
ClusterMeshService/GetService             reader admin local
ClusterMeshService/ListServices           reader admin local
ClusterMeshService/WatchServices          reader admin local
ClusterMeshService/SubscribeServices      node local
FqdnService/ListCache                     local
FqdnService/CleanCache                    local
FqdnService/ListSelectors                 local
FqdnService/ListRules                     local
FqdnService/GetStatus                     local
FqdnService/ReportLookups                 local
FqdnService/WatchLookups                  local
FqdnService/SubscribeNames                local
FqdnService/SyncRedirects                 local
NodeService/AddEndpoint                   local
NodeService/DeleteEndpoint                local
NodeService/GetEndpoint                   local
NodeService/SetEndpointAudit              local
NodeService/ListEndpoints                 local
NodeService/WatchEndpoints                local
NodeService/ListIpcache                   local
NodeService/GetPolicyMap                  local
NodeService/GetNodeStatus                 local
NodeService/AuditMaps                     local
NodeService/SetEndpointConfig             local
NodeService/GetEndpointLog                local
NodeService/RegenerateEndpoint            local
NodeService/ListConnections               local
NodeService/FlushConnections              local
NodeService/ListTranslations              local
NodeService/ListFrontends                 local
NodeService/GetMaglevTable                local
NodeService/ListMetrics                   local
NodeService/GetHealth                     local
FlowsService/StreamFlows                  relay reader admin local
Observer/GetFlows                         relay reader admin local
Observer/GetAgentEvents                   relay reader admin local
Observer/GetDebugEvents                   relay reader admin local
Observer/GetNodes                         relay reader admin local
Observer/GetNamespaces                    relay reader admin local
Observer/ServerStatus                     relay reader admin local
Peer/Notify                               relay reader admin local
Health/Check                              *
Health/List                               *
Health/Watch                              *
ServerReflection/ServerReflectionInfo     *
"""


def expected_callers(method: str) -> set[str]:
    short = method.rpartition(".")[2]
    for line in EXPECTED.strip().splitlines():
        name, *callers = line.split()
        if name == short:
            everyone = set(CALLERS) - {"etcd"}
            return everyone if callers == ["*"] else set(callers)
    raise AssertionError(f"{method} is missing in this test's matrix")


def methods_of_protos() -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }


def test_table_and_protos_name_the_same_methods() -> None:
    assert set(methodroles.CALLERS_BY_METHOD) == methods_of_protos() | WITHOUT_STUBS


@pytest.mark.parametrize("method", sorted(methodroles.CALLERS_BY_METHOD))
@pytest.mark.parametrize("caller", sorted(CALLERS))
def test_every_pair(caller: str, method: str) -> None:
    assert methodroles.may_call(CALLERS[caller], method) == (caller in expected_callers(method))


def test_unknown_method_is_denied_to_everyone() -> None:
    assert not any(methodroles.may_call(role, "/x.Y/Z") for role in CALLERS.values())
    assert not methodroles.is_known("/x.Y/Z")


def test_rows_are_known_roles() -> None:
    assert all(callers <= set(methodroles.ROLE_KEYS) for callers in methodroles.CALLERS_BY_METHOD.values())
