"""Services that every server has beside its own: health and reflection."""

from __future__ import annotations

from collections.abc import Sequence

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from axoneme.lib.health import Health

assert grpcsettings.ENVIRONMENT

HUBBLE_HEALTH = "hubble.server.Observer"
"""Name under which Hubble clients ask for the health of an Observer."""


def register_health(health: Health, server: grpc.aio.Server, names: Sequence[str]) -> None:
    """Serves health of all names."""
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for name in (*names, *([HUBBLE_HEALTH] if "observer.Observer" in names else [])):
        health.add(name)


def register_reflection(server: grpc.aio.Server, names: Sequence[str]) -> None:
    """Serves reflection under v1alpha and, with the same messages, under v1, which grpcurl asks for first."""
    services = [name for name in (*names, "grpc.health.v1.Health") if _described(name)]
    services += ["grpc.reflection.v1alpha.ServerReflection"]
    servicer = reflection.aio.ReflectionServicer(services)
    for package in ("v1alpha", "v1"):
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        name = f"grpc.reflection.{package}.ServerReflection"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )


def _described(name: str) -> bool:
    try:
        descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        return False
    return True
