"""A stock Observer server (plaintext grpcio) with ready flows, for `tests.perf.observe_print`.

    python -m tests.perf.observe_source SOCKET MODE

MODE `stock` has GetFlows alone, `batches` also FlowsService. Each call gets `number` responses. Prints
`ready` and serves until its stdin ends.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import json_format

from axoneme.api.flows.v1 import flows_pb2
from axoneme.api.hubble.observer import observer_pb2

BATCH = 256
KINDS = 1_000
Raw = Iterator[bytes]


def flows() -> list[bytes]:
    """Different flows of the usual kinds with the fields of the default mask, encoded."""
    return [_flow(number).SerializeToString() for number in range(KINDS)]


def _flow(number: int) -> observer_pb2.GetFlowsResponse:
    time = f"2026-03-01T10:{number // 60 % 60:02d}:{number % 60:02d}.{number:03d}Z"
    source = {"identity": 20_000 + number, "namespace": "shop", "pod_name": f"web-7d4b9-{number}"}
    target = {"identity": 30_000 + number % 7, "namespace": "data", "pod_name": f"db-{number % 7}"}
    flow: dict[str, Any] = {
        "time": time, "verdict": "FORWARDED", "IP": {"source": "10.1.0.11", "destination": "10.2.0.1"},
        "l4": {"TCP": {"source_port": 40_000 + number, "destination_port": 5432, "flags": {"SYN": True}}},
        "source": source, "destination": target, "Type": "L3_L4", "node_name": "east/node-a",
        "event_type": {"type": 4, "sub_type": number % 4}, "is_reply": number % 2 == 0,
        "Summary": "TCP Flags: ACK, PSH", "traffic_direction": "INGRESS",
    }  # fmt: skip
    if number % 10 == 0:
        allowed = [{"name": "allow-web", "namespace": "shop", "kind": "CiliumNetworkPolicy"}]
        flow |= {"event_type": {"type": 5}, "policy_match_type": 2, "ingress_allowed_by": allowed}
    values = {"flow": flow, "node_name": "east/node-a", "time": time}
    return json_format.ParseDict(values, observer_pb2.GetFlowsResponse())


class Source(grpc.GenericRpcHandler):
    """Both services on bytes, so that the server costs little."""

    def __init__(self, *, batches: bool) -> None:
        self._flows = flows()
        self._batches = batches

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method, None for what there is not."""
        method = handler_call_details.method
        if method == "/observer.Observer/GetFlows":
            return grpc.unary_stream_rpc_method_handler(self._get_flows)
        if method == "/axoneme.api.flows.v1.FlowsService/StreamFlows" and self._batches:
            return grpc.unary_stream_rpc_method_handler(self._stream_flows)
        return None

    def _get_flows(self, data: bytes, _: Any) -> Raw:
        number = observer_pb2.GetFlowsRequest.FromString(data).number
        return itertools.islice(itertools.cycle(self._flows), number)

    def _stream_flows(self, data: bytes, _: Any) -> Raw:
        request = flows_pb2.StreamFlowsRequest.FromString(data)
        items = itertools.islice(itertools.cycle(self._flows), request.request.number)
        for batch in iter(lambda: list(itertools.islice(items, BATCH)), []):
            yield flows_pb2.StreamFlowsResponse(responses=batch).SerializeToString()


def main(socket: str, mode: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Source(batches=mode == "batches"),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(0).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
