"""Who may call what: the exact table of every method of every service. Pure data, default deny.

A row of callers is `Role.key`: svc/<name>, node, peer, user/reader, user/admin, local. What is not here is
refused, also when a server happens to implement it. The node API is for the unix socket alone; whoever opens
that socket is root on the machine that holds the service's own key, so `local` may call everything a server
serves there.
"""

from __future__ import annotations

from collections.abc import Mapping

from axoneme.lib.roles import Role

ROLE_KEYS = (
    "svc/identity",
    "svc/policy",
    "svc/clustermesh",
    "svc/fqdn",
    "svc/relay",
    "node",
    "peer",
    "user/reader",
    "user/admin",
    "local",
)

LOCAL = frozenset({"local"})
NODES = LOCAL | {"node"}
ADMINS = LOCAL | {"user/admin"}
READERS = ADMINS | {"user/reader"}
OBSERVERS = READERS | {"svc/relay"}
EVERYONE = frozenset(ROLE_KEYS)

_IDENTITY = "/axoneme.api.identity.v1.IdentityService/"
_POLICY = "/axoneme.api.policy.v1.PolicyService/"
_CLUSTERMESH = "/axoneme.api.clustermesh.v1.ClusterMeshService/"
_NODE = "/axoneme.api.node.v1.NodeService/"
_FQDN = "/axoneme.api.fqdn.v1.FqdnService/"

CALLERS_BY_METHOD: Mapping[str, frozenset[str]] = {
    # A node allocates for its own endpoints; an admin may reserve and free a number by hand.
    _IDENTITY + "AllocateIdentity": NODES | ADMINS,
    _IDENTITY + "ReleaseIdentity": NODES | ADMINS,
    _IDENTITY + "GetIdentity": READERS | NODES,
    _IDENTITY + "ListIdentities": READERS | NODES,
    _IDENTITY + "WatchIdentities": READERS | NODES,
    # Leases and streams belong to the node itself: an admin's stream would push the node's own aside.
    _IDENTITY + "RegisterNode": NODES,
    _IDENTITY + "RenewNode": NODES,
    _IDENTITY + "DeleteNode": NODES | ADMINS,
    _IDENTITY + "ListNodes": READERS | NODES | {"svc/relay"},
    _IDENTITY + "WatchNodes": READERS | NODES | {"svc/relay"},
    _IDENTITY + "PublishAddresses": NODES,
    _IDENTITY + "WithdrawAddresses": NODES | ADMINS,
    _IDENTITY + "ListAddresses": READERS | NODES,
    _IDENTITY + "WatchAddresses": READERS | NODES | {"svc/relay"},
    _IDENTITY + "SubscribeIpcache": NODES,
    _IDENTITY + "SubscribeNodes": NODES,
    _POLICY + "ApplyPolicy": ADMINS,
    _POLICY + "DeletePolicy": ADMINS,
    _POLICY + "GetPolicy": READERS,
    _POLICY + "ListPolicies": READERS,
    _POLICY + "WatchPolicies": READERS,
    _POLICY + "GetSubjectPolicy": READERS,
    _POLICY + "GetPolicyStatus": READERS,
    _POLICY + "ListSelectors": READERS,
    # These compute only; a reader of the policies could do the same by hand.
    _POLICY + "ExplainFlow": READERS,
    _POLICY + "DiffPolicies": READERS,
    _POLICY + "ReplayFlows": READERS,
    _POLICY + "AwaitIdentity": NODES,
    _POLICY + "SubscribeEndpointPolicies": NODES,
    _POLICY + "SubscribeDnsRules": NODES,
    _CLUSTERMESH + "ApplyService": ADMINS,
    _CLUSTERMESH + "DeleteService": ADMINS,
    _CLUSTERMESH + "GetService": READERS,
    _CLUSTERMESH + "ListServices": READERS,
    _CLUSTERMESH + "WatchServices": READERS,
    _CLUSTERMESH + "SubscribeServices": NODES,
    _FQDN + "ListCache": LOCAL,
    _FQDN + "CleanCache": LOCAL,
    _FQDN + "ListSelectors": LOCAL,
    _FQDN + "ListRules": LOCAL,
    _FQDN + "GetStatus": LOCAL,
    _FQDN + "ReportLookups": LOCAL,
    _FQDN + "WatchLookups": LOCAL,
    _FQDN + "SubscribeNames": LOCAL,
    _FQDN + "SyncRedirects": LOCAL,
    _NODE + "AddEndpoint": LOCAL,
    _NODE + "DeleteEndpoint": LOCAL,
    _NODE + "GetEndpoint": LOCAL,
    _NODE + "SetEndpointAudit": LOCAL,
    _NODE + "ListEndpoints": LOCAL,
    _NODE + "WatchEndpoints": LOCAL,
    _NODE + "ListIpcache": LOCAL,
    _NODE + "GetPolicyMap": LOCAL,
    _NODE + "GetNodeStatus": LOCAL,
    _NODE + "AuditMaps": LOCAL,
    _NODE + "SetEndpointConfig": LOCAL,
    _NODE + "GetEndpointLog": LOCAL,
    _NODE + "RegenerateEndpoint": LOCAL,
    _NODE + "ListConnections": LOCAL,
    _NODE + "FlushConnections": LOCAL,
    _NODE + "ListTranslations": LOCAL,
    _NODE + "ListFrontends": LOCAL,
    _NODE + "GetMaglevTable": LOCAL,
    _NODE + "ListMetrics": LOCAL,
    _NODE + "GetHealth": LOCAL,
    "/axoneme.api.flows.v1.FlowsService/StreamFlows": OBSERVERS,
    "/observer.Observer/GetFlows": OBSERVERS,
    "/observer.Observer/GetAgentEvents": OBSERVERS,
    "/observer.Observer/GetDebugEvents": OBSERVERS,
    "/observer.Observer/GetNodes": OBSERVERS,
    "/observer.Observer/GetNamespaces": OBSERVERS,
    "/observer.Observer/ServerStatus": OBSERVERS,
    "/peer.Peer/Notify": OBSERVERS,
    "/grpc.health.v1.Health/Check": EVERYONE,
    "/grpc.health.v1.Health/List": EVERYONE,
    "/grpc.health.v1.Health/Watch": EVERYONE,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": EVERYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": EVERYONE,
}


def may_call(role: Role, method: str) -> bool:
    """True only for an exact entry; `method` is the full path `/package.Service/Method`."""
    return role.key in CALLERS_BY_METHOD.get(method, frozenset())


def callers_of(method: str) -> list[str]:
    """Keys of the roles that may call a method, sorted; empty when nobody may."""
    return sorted(CALLERS_BY_METHOD.get(method, frozenset()))


def is_known(method: str) -> bool:
    """True when the table has the method at all."""
    return method in CALLERS_BY_METHOD
