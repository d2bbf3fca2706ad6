"""Messages of the node API: endpoints and entries of the kernel's maps, as they are shown."""

from __future__ import annotations

from collections.abc import Iterable

from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.policy.model import Direction, MapKey, Origin, SubjectPolicy
from shim.endpoints import Endpoint
from shim.hostports import host_ports_message
from shim.ipcache import IpcacheMerge, IpcacheValue
from shim.maps import layout
from shim.namedports import named_ports_message


def endpoint_message(
    endpoint: Endpoint, policy: SubjectPolicy | None, *, audits_all: bool
) -> node_pb2.Endpoint:
    """An endpoint with the policy that it is judged by, if that is known."""
    return node_pb2.Endpoint(
        endpoint_id=endpoint.endpoint_id,
        namespace=endpoint.namespace,
        pod_name=endpoint.pod_name,
        labels=endpoint.labels.texts(),
        identity=endpoint.identity,
        ips=endpoint.ips,
        interface_name=endpoint.interface_name,
        state=node_pb2.EndpointState.ValueType(endpoint.state),
        state_reason=endpoint.state_reason,
        netns=endpoint.netns,
        ingress=policy_pb2.Enforcement.ValueType(policy.ingress if policy else 0),
        egress=policy_pb2.Enforcement.ValueType(policy.egress if policy else 0),
        policy_generation=endpoint.policy_generation,
        named_ports=named_ports_message(endpoint.named_ports),
        audit=endpoint.audit or audits_all,
        host_ports=host_ports_message(endpoint.host_ports),
        adopted=endpoint.adopted,
        aggregation=node_pb2.AggregationLevel.ValueType(endpoint.aggregation),
    )


def ipcache_entry_message(prefix: str, value: IpcacheValue, merge: IpcacheMerge) -> node_pb2.IpcacheMapEntry:
    """An entry of the kernel; its source is named only where it is what the merge says."""
    winner = merge.winner(prefix)
    known = winner is not None and winner.value == value
    return node_pb2.IpcacheMapEntry(
        prefix=prefix,
        identity=value.identity,
        tunnel_endpoint=value.tunnel_endpoint,
        source=winner.rank.title if winner is not None and known else "",
    )


def policy_entry_message(
    key: MapKey, entry: layout.PolicyEntry, origins: Iterable[Origin]
) -> node_pb2.PolicyMapEntry:
    """An entry of a policy map with the rules that it comes from."""
    return node_pb2.PolicyMapEntry(
        direction=policy_pb2.Direction.ValueType(Direction(key.direction)),
        identity=key.identity,
        protocol=key.ports.protocol,
        port=key.ports.port,
        port_prefix_length=key.ports.prefix_length,
        action=policy_pb2.Action.ValueType(entry.action),
        precedence=entry.precedence,
        origins=[origin_message(origin) for origin in origins],
        audit=bool(entry.flags & layout.ENTRY_AUDIT),
    )


def origin_message(origin: Origin) -> policy_pb2.Origin:
    """The rule that an entry or a connection comes from."""
    return policy_pb2.Origin(
        origin_id=origin.origin_id,
        kind=origin.kind,
        namespace=origin.namespace,
        name=origin.name,
        rule=origin.rule,
        labels=origin.labels,
    )
