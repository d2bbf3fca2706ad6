"""A stock Observer in this process that records what it is asked and answers from lists."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from axoneme.api.flows.v1 import flows_pb2, flows_pb2_grpc
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.api.hubble.peer import peer_pb2_grpc
from axoneme.cli.hubble.serverstatus import HEALTH_SERVICE


class StockObserver(observer_pb2_grpc.ObserverServicer, peer_pb2_grpc.PeerServicer):
    """`answers` by method: a list for streams, a message for unary calls."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}

    def _note(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))

    def GetFlows(self, request: Any, context: Any) -> Iterator[Any]:
        self._note(request, context)
        yield from self.answers.get("GetFlows", ())

    def GetAgentEvents(self, request: Any, context: Any) -> Iterator[Any]:
        self._note(request, context)
        yield from self.answers.get("GetAgentEvents", ())

    def GetDebugEvents(self, request: Any, context: Any) -> Iterator[Any]:
        self._note(request, context)
        yield from self.answers.get("GetDebugEvents", ())

    def Notify(self, request: Any, context: Any) -> Iterator[Any]:
        yield from self.answers.get("Notify", ())

    def ServerStatus(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return self.answers["ServerStatus"]

    def GetNodes(self, request: Any, context: Any) -> Any:
        return self.answers["GetNodes"]

    def GetNamespaces(self, request: Any, context: Any) -> Any:
        return self.answers["GetNamespaces"]


class Batches(flows_pb2_grpc.FlowsServiceServicer):
    """The same flows, three in a message."""

    def __init__(self, observer: StockObserver) -> None:
        self._observer = observer
        self.calls = 0

    def StreamFlows(self, request: Any, context: Any) -> Iterator[Any]:
        self.calls += 1
        batch: list[bytes] = []
        for one in self._observer.GetFlows(request.request, context):
            batch.append(one.SerializeToString())
            if len(batch) == 3 or request.request.follow:
                yield flows_pb2.StreamFlowsResponse(responses=batch)
                batch = []
        yield flows_pb2.StreamFlowsResponse(responses=batch)


class Served:
    """A running server: its address, what it was asked, its health."""

    def __init__(
        self, address: str, observer: StockObserver, health_state: Any, batches: Batches | None
    ) -> None:
        self.address = address
        self.observer = observer
        self.health = health_state
        self.batches = batches

    @property
    def socket(self) -> str:
        """Path of the unix socket."""
        return self.address.removeprefix("unix:")

    @property
    def last(self) -> dict[str, Any]:
        """The newest request as plain values; of its field mask only the paths."""
        request = self.observer.requests[-1]
        copy = type(request)()
        copy.CopyFrom(request)
        if "field_mask" in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField("field_mask")
        return json_format.MessageToDict(copy, preserving_proto_field_name=True)


@contextlib.contextmanager
def serving(
    address: str,
    *,
    batches: bool = False,
    credentials: grpc.ServerCredentials | None = None,
    observer: StockObserver | None = None,
) -> Iterator[Served]:
    """A server at `unix:PATH` or `localhost:0`."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    served = observer or StockObserver()
    observer_pb2_grpc.add_ObserverServicer_to_server(served, server)
    peer_pb2_grpc.add_PeerServicer_to_server(served, server)
    state = health.HealthServicer()
    state.set(HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    many = Batches(served) if batches else None
    if many is not None:
        flows_pb2_grpc.add_FlowsServiceServicer_to_server(many, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield Served(address if address.startswith("unix:") else f"localhost:{port}", served, state, many)
    finally:
        server.stop(0).wait()


def parsed(kind: Any, values: dict[str, Any]) -> Any:
    """A message from plain values."""
    return json_format.ParseDict(values, kind())


def flow_at(second: float, **flow: Any) -> observer_pb2.GetFlowsResponse:
    """A flow of 2026-03-01T10:00 and some seconds."""
    whole = int(second)
    time = f"2026-03-01T10:00:{whole:02d}.{int((second - whole) * 1000):03d}Z"
    base = {"verdict": "FORWARDED", "event_type": {"type": 4, "sub_type": 3}, "time": time}
    answer: observer_pb2.GetFlowsResponse = parsed(
        observer_pb2.GetFlowsResponse, {"flow": base | flow, "time": time, "node_name": "n"}
    )
    return answer


def context_free(monkeypatch: Any, tmp_path: Path) -> None:
    """No context, no config file and no variables of the user that runs the tests."""
    for name in ("AXONEME_CONTEXT", "XDG_CONFIG_HOME", "HUBBLE_SERVER", "HUBBLE_CONFIG", "HUBBLE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AXONEME_LAB_DIRECTORY", str(tmp_path / "no-lab"))
