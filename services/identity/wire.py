"""Domain ↔ messages of axoneme.api.identity.v1, and the codecs of the two streams. Plain translation."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.lib.intent import Change, Request, Update
from axoneme.lib.intentstream.envelope import (
    ack_from_message,
    header_to_message,
    hello_from_message,
    resync_from_message,
)
from axoneme.lib.labels import LabelSet
from services.identity.domain import Address, NamedPort, Node

IDENTITY_KEY, PREFIX_KEY = "identity:", "prefix:"
NODE_KEY = "node:"
PREFIX_BYTES = 96
"""About what an entry of the ipcache takes on the wire."""


@dataclass(frozen=True, slots=True)
class PrefixItem:
    """A prefix of the ipcache stream."""

    prefix: str
    identity: int
    tunnel_endpoint: str
    encryption_key: int
    cluster: str
    namespace: str
    pod_name: str


IpcacheItem = PrefixItem | LabelSet
NodeItem = Node


def ipcache_item(ip: str, address: Address | None, cluster: str) -> tuple[str, PrefixItem | None]:
    """Key and value of an address in the ipcache stream; no value when it went away."""
    prefix = str(ipaddress.ip_network(ip))
    if address is None:
        return PREFIX_KEY + prefix, None
    item = PrefixItem(
        prefix,
        address.identity,
        address.host_ip,
        address.encryption_key,
        cluster,
        address.namespace,
        address.pod_name,
    )
    return PREFIX_KEY + prefix, item


def node_item(node: Node) -> NodeItem:
    """Value of a node in the nodes stream."""
    return node


def _decode(request: Any) -> Request:
    match request.WhichOneof("kind"):
        case "hello":
            return hello_from_message(request.hello)
        case "ack":
            return ack_from_message(request.ack)
        case "resync":
            return resync_from_message(request.resync)
    raise ValueError("kind: one of hello, ack, resync must be set")


class IpcacheCodec:
    """Publisher's codec of SubscribeIpcache."""

    def decode(self, request: pb.SubscribeIpcacheRequest) -> Request:
        """A message of a shim."""
        return _decode(request)

    def encode(self, update: Update[IpcacheItem]) -> pb.SubscribeIpcacheResponse:
        """An update."""
        message = pb.SubscribeIpcacheResponse(header=header_to_message(update.header))
        for change in update.changes:
            kind, _, name = change.key.partition(":")
            if isinstance(change.value, PrefixItem):
                message.upserts.append(ipcache_message(change.value))
            elif isinstance(change.value, LabelSet):
                message.identity_upserts.append(identity_message(int(name), change.value))
            elif kind == "identity":
                message.removed_identities.append(int(name))
            else:
                message.removed_prefixes.append(name)
        return message

    def weight(self, change: Change[IpcacheItem]) -> int:
        """About the bytes of a change."""
        if isinstance(change.value, LabelSet):
            return 16 + len(change.value.key)
        return PREFIX_BYTES if change.value is not None else len(change.key)


class NodesCodec:
    """Publisher's codec of SubscribeNodes."""

    def decode(self, request: pb.SubscribeNodesRequest) -> Request:
        """A message of a shim."""
        return _decode(request)

    def encode(self, update: Update[NodeItem]) -> pb.SubscribeNodesResponse:
        """An update."""
        message = pb.SubscribeNodesResponse(header=header_to_message(update.header))
        for change in update.changes:
            if change.value is not None:
                message.upserts.append(node_message(change.value))
            else:
                message.removed_nodes.append(change.key.removeprefix(NODE_KEY))
        return message

    def weight(self, change: Change[NodeItem]) -> int:
        """About the bytes of a change."""
        if change.value is None:
            return len(change.key)
        texts = (*change.value.labels, *change.value.features)
        return 256 + sum(len(key) + len(value) + 6 for key, value in texts)


def identity_message(number: int, labels: LabelSet) -> pb.Identity:
    """An identity."""
    return pb.Identity(identity=number, labels=labels.texts())


def ipcache_message(item: PrefixItem) -> pb.IpcacheEntry:
    """An entry of the ipcache stream."""
    return pb.IpcacheEntry(
        prefix=item.prefix,
        identity=item.identity,
        tunnel_endpoint=item.tunnel_endpoint,
        encryption_key=item.encryption_key,
        cluster=item.cluster,
        namespace=item.namespace,
        pod_name=item.pod_name,
    )


def node_message(node: Node, revision: int = 0) -> pb.Node:
    """A node; the streams to the shims leave the revision of its registration out."""
    return pb.Node(
        name=node.name,
        cluster=node.cluster,
        cluster_id=node.cluster_id,
        internal_ips=node.internal_ips,
        pod_cidrs=node.pod_cidrs,
        router_ips=node.router_ips,
        labels=dict(node.labels),
        observer_address=node.observer_address,
        revision=revision,
        health_ips=node.health_ips,
        features=dict(node.features),
    )


def node_of(message: pb.Node, cluster: str, cluster_id: int) -> Node:
    """The node that a request describes; the cluster is always ours."""
    return Node(
        name=message.name,
        cluster=cluster,
        cluster_id=cluster_id,
        internal_ips=tuple(message.internal_ips),
        pod_cidrs=tuple(message.pod_cidrs),
        router_ips=tuple(message.router_ips),
        labels=tuple(sorted(message.labels.items())),
        observer_address=message.observer_address,
        health_ips=tuple(message.health_ips),
        features=tuple(sorted(message.features.items())),
    )


def address_message(address: Address, node_name: str) -> pb.Address:
    """A published address."""
    return pb.Address(
        ip=address.ip,
        identity=address.identity,
        host_ip=address.host_ip,
        namespace=address.namespace,
        pod_name=address.pod_name,
        named_ports=[
            pb.NamedPort(name=p.name, port=p.port, protocol=p.protocol) for p in address.named_ports
        ],
        node_name=node_name,
    )


def addresses_of(messages: Sequence[pb.Address]) -> list[Address]:
    """The addresses of a request."""
    return [
        Address(
            ip=message.ip,
            identity=message.identity,
            host_ip=message.host_ip,
            namespace=message.namespace,
            pod_name=message.pod_name,
            named_ports=tuple(NamedPort(p.name, p.port, p.protocol.upper()) for p in message.named_ports),
        )
        for message in messages
    ]
