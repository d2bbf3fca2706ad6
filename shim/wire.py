"""The three streams of a shim between their messages and its own values.

A resource that cannot be understood fails alone under its key and keeps its last good value; only a header
without a nonce ends a stream. Keys: `prefix:<cidr>`, `identity:<n>`, `node:<cluster>/<name>`,
`subject:<n>`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator

from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Ack, Change, Failure, Hello, Interest, Resync, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import decode_change, decode_subject, encode_subject
from shim.nodeipcache import IdentityEntry, PrefixEntry
from shim.routes import NodeEntry

MAX_IDENTITY = 0xFFFF_FFFF


def node_entry(node: identity_pb2.Node) -> NodeEntry:
    """A node of the stream. Raises ValueError for an address or PodCIDR that is none."""
    return NodeEntry(
        cluster=node.cluster,
        name=node.name,
        internal_ips=tuple(str(ipaddress.ip_address(ip)) for ip in node.internal_ips),
        pod_cidrs=tuple(str(ipaddress.ip_network(cidr)) for cidr in node.pod_cidrs),
        router_ips=tuple(str(ipaddress.ip_address(ip)) for ip in node.router_ips),
        health_ips=tuple(str(ipaddress.ip_address(ip)) for ip in node.health_ips),
        observer_address=node.observer_address,
        labels=tuple(sorted(node.labels.items())),
        features=tuple(sorted(node.features.items())),
    )


def node_message(node: NodeEntry) -> identity_pb2.Node:
    """What a node says of itself when it registers; the service chooses the rest."""
    return identity_pb2.Node(
        name=node.name,
        internal_ips=node.internal_ips,
        pod_cidrs=node.pod_cidrs,
        health_ips=node.health_ips,
        observer_address=node.observer_address,
        labels=dict(node.labels),
        features=dict(node.features),
    )


def prefix_entry(entry: identity_pb2.IpcacheEntry) -> PrefixEntry:
    """A prefix of the stream. Raises ValueError."""
    if entry.identity == 0:
        raise ValueError("identity 0 stands for nobody")
    tunnel = str(ipaddress.ip_address(entry.tunnel_endpoint)) if entry.tunnel_endpoint else ""
    return PrefixEntry(
        prefix=str(ipaddress.ip_network(entry.prefix)),
        identity=entry.identity,
        tunnel_endpoint=tunnel,
        encryption_key=entry.encryption_key & 0xFF,
        cluster=entry.cluster,
        namespace=entry.namespace,
        pod_name=entry.pod_name,
    )


class IpcacheCodec:
    """SubscribeIpcache."""

    def decode(
        self,
        response: identity_pb2.SubscribeIpcacheResponse,
        current: Callable[[str], PrefixEntry | IdentityEntry | None],  # noqa: ARG002 - entries come whole
    ) -> Update[PrefixEntry | IdentityEntry]:
        """Identities before prefixes, removals in reverse order."""
        failures: dict[str, Failure] = {}
        changes = tuple(self._changes(response, failures))
        return Update(
            header=envelope.header_from_message(response.header), changes=changes, failures=failures
        )

    def _changes(
        self, response: identity_pb2.SubscribeIpcacheResponse, failures: dict[str, Failure]
    ) -> Iterator[Change[PrefixEntry | IdentityEntry]]:
        for identity in response.identity_upserts:
            key = f"identity:{identity.identity}"
            try:
                labels = LabelSet.parse(identity.labels)
            except AxonemeError as error:
                failures[key] = _invalid(error)
                continue
            yield Change(key, IdentityEntry(number=identity.identity, labels=labels))
        for entry in response.upserts:
            key = f"prefix:{entry.prefix}"
            try:
                yield Change(key, prefix_entry(entry))
            except ValueError as error:
                failures[key] = _invalid(error)
        for prefix in response.removed_prefixes:
            yield Change(f"prefix:{prefix}", None)
        for number in response.removed_identities:
            yield Change(f"identity:{number}", None)

    def hello(self, hello: Hello) -> identity_pb2.SubscribeIpcacheRequest:
        """First request."""
        return identity_pb2.SubscribeIpcacheRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> identity_pb2.SubscribeIpcacheRequest:
        """Answer to an update."""
        return identity_pb2.SubscribeIpcacheRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> identity_pb2.SubscribeIpcacheRequest:
        """Request for a snapshot."""
        return identity_pb2.SubscribeIpcacheRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> identity_pb2.SubscribeIpcacheRequest:  # noqa: ARG002
        """Every shim gets every prefix."""
        raise TypeError("SubscribeIpcache knows no interest")


class NodesCodec:
    """SubscribeNodes."""

    def decode(
        self,
        response: identity_pb2.SubscribeNodesResponse,
        current: Callable[[str], NodeEntry | None],  # noqa: ARG002 - nodes come whole
    ) -> Update[NodeEntry]:
        """Nodes and removed nodes."""
        changes: list[Change[NodeEntry]] = []
        failures: dict[str, Failure] = {}
        for node in response.upserts:
            key = f"node:{node.cluster}/{node.name}"
            try:
                changes.append(Change(key, node_entry(node)))
            except ValueError as error:
                failures[key] = _invalid(error)
        changes += [Change(f"node:{name}", None) for name in response.removed_nodes]
        header = envelope.header_from_message(response.header)
        return Update(header=header, changes=tuple(changes), failures=failures)

    def hello(self, hello: Hello) -> identity_pb2.SubscribeNodesRequest:
        """First request."""
        return identity_pb2.SubscribeNodesRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> identity_pb2.SubscribeNodesRequest:
        """Answer to an update."""
        return identity_pb2.SubscribeNodesRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> identity_pb2.SubscribeNodesRequest:
        """Request for a snapshot."""
        return identity_pb2.SubscribeNodesRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> identity_pb2.SubscribeNodesRequest:  # noqa: ARG002
        """Every shim gets every node."""
        raise TypeError("SubscribeNodes knows no interest")


class PoliciesCodec:
    """SubscribeEndpointPolicies."""

    def decode(
        self,
        response: policy_pb2.SubscribeEndpointPoliciesResponse,
        current: Callable[[str], SubjectPolicy | None],
    ) -> Update[SubjectPolicy]:
        """Each change builds on what this node holds of the subject."""
        changes: list[Change[SubjectPolicy]] = []
        failures: dict[str, Failure] = {}
        for change in response.changes:
            key = ""
            try:
                key = decode_subject(change.subject)
                changes.append(Change(key, decode_change(change, current(key))))
            except AxonemeError as error:
                failures[key or f"subject:{change.subject}"] = _of(error)
            except (ValueError, KeyError) as error:
                failures[key] = _invalid(error)
        for subject in response.removed_subjects:
            try:
                changes.append(Change(decode_subject(subject), None))
            except AxonemeError as error:
                failures[f"subject:{subject}"] = _of(error)
        header = envelope.header_from_message(response.header)
        return Update(header=header, changes=tuple(changes), failures=failures)

    def hello(self, hello: Hello) -> policy_pb2.SubscribeEndpointPoliciesRequest:
        """First request."""
        return policy_pb2.SubscribeEndpointPoliciesRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> policy_pb2.SubscribeEndpointPoliciesRequest:
        """Answer to an update."""
        return policy_pb2.SubscribeEndpointPoliciesRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> policy_pb2.SubscribeEndpointPoliciesRequest:
        """Request for a snapshot."""
        return policy_pb2.SubscribeEndpointPoliciesRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> policy_pb2.SubscribeEndpointPoliciesRequest:
        """Subjects that appeared on this node or went away."""
        message = policy_pb2.Interest(
            added=[encode_subject(key) for key in interest.added],
            removed=[encode_subject(key) for key in interest.removed],
        )
        return policy_pb2.SubscribeEndpointPoliciesRequest(interest=message)


def _of(error: AxonemeError) -> Failure:
    return Failure(error.code, error.reason, error.message)


def _invalid(error: Exception) -> Failure:
    return Failure("INVALID_ARGUMENT", "RESOURCE_INVALID", str(error))
