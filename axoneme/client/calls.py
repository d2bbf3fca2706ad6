"""What both clients share: which methods exist, how often a call is tried, request ids.

Only UNAVAILABLE is tried again, at the next target; a write gets a request id first, so that an attempt which
did reach the service is not done twice.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)

from axoneme.client.context import Context
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.tls import TlsFiles

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

assert grpcsettings.ENVIRONMENT

DEFAULT_TIMEOUT_SECONDS = 10.0
ATTEMPTS = 3
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """A service of the API: which process of the context serves it, its descriptor and its generated stub."""

    process: str
    descriptor: Any
    stub_type: Any

    def method(self, name: str) -> MethodDescriptor:
        """Raises AttributeError for a method that the service does not have."""
        method: MethodDescriptor | None = self.descriptor.methods_by_name.get(name)
        if method is None:
            raise AttributeError(f"{self.descriptor.full_name} has no method {name}")
        return method


def identity_part() -> Part:
    """The identity service."""
    from axoneme.api.identity.v1 import identity_pb2, identity_pb2_grpc

    descriptor = identity_pb2.DESCRIPTOR.services_by_name["IdentityService"]
    return Part("identity", descriptor, identity_pb2_grpc.IdentityServiceStub)


def policy_part() -> Part:
    """The policy service."""
    from axoneme.api.policy.v1 import policy_pb2, policy_pb2_grpc

    return Part(
        "policy", policy_pb2.DESCRIPTOR.services_by_name["PolicyService"], policy_pb2_grpc.PolicyServiceStub
    )


def clustermesh_part() -> Part:
    """The clustermesh service."""
    from axoneme.api.clustermesh.v1 import clustermesh_pb2, clustermesh_pb2_grpc

    descriptor = clustermesh_pb2.DESCRIPTOR.services_by_name["ClusterMeshService"]
    return Part("clustermesh", descriptor, clustermesh_pb2_grpc.ClusterMeshServiceStub)


def observer_part() -> Part:
    """The Observer of the relay."""
    from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc

    return Part("relay", observer_pb2.DESCRIPTOR.services_by_name["Observer"], observer_pb2_grpc.ObserverStub)


def node_part() -> Part:
    """The local API of a node."""
    from axoneme.api.node.v1 import node_pb2, node_pb2_grpc

    return Part("node", node_pb2.DESCRIPTOR.services_by_name["NodeService"], node_pb2_grpc.NodeServiceStub)


def fqdn_part() -> Part:
    """The DNS proxy of a node."""
    from axoneme.api.fqdn.v1 import fqdn_pb2, fqdn_pb2_grpc

    return Part("fqdn", fqdn_pb2.DESCRIPTOR.services_by_name["FqdnService"], fqdn_pb2_grpc.FqdnServiceStub)


def health_part(process: str) -> Part:
    """The health service of a process."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    return Part(process, health_pb2.DESCRIPTOR.services_by_name["Health"], health_pb2_grpc.HealthStub)


def tls_files(context: Context) -> TlsFiles:
    """Certificate files of a context. Raises InvalidArgument when one is missing."""
    if context.ca_file is None or context.cert_file is None or context.key_file is None:
        raise InvalidArgument.of_field("tls", f"the context {context.source} must name ca, cert and key")
    return TlsFiles(context.ca_file, context.cert_file, context.key_file)


def node_target(context: Context, node: str) -> str:
    """gRPC target of a node's unix socket. Raises NotFound for an unknown node."""
    return f"unix:{context.node_socket(node)}"


def fqdn_target(context: Context, node: str) -> str:
    """gRPC target of a node's DNS proxy, whose socket is beside the shim's. Raises NotFound."""
    return f"unix:{context.node_socket(node).with_name('fqdn.sock')}"


def with_request_id(request: Any) -> Any:
    """The request, or a copy with an id when the message has an empty field for one."""
    descriptor = getattr(request, "DESCRIPTOR", None)
    if descriptor is None or "request_id" not in descriptor.fields_by_name or request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy


def pauses(targets: int, rng: random.Random) -> Iterator[float]:
    """Seconds to wait before each further attempt: 0 until every target was asked, then growing."""
    for attempt in range(1, max(ATTEMPTS, targets)):
        if attempt < targets:
            yield 0.0
        else:
            longest = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - targets), LAST_PAUSE_SECONDS)
            yield rng.uniform(longest / 2, longest)
