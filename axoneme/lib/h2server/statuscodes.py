"""Numbers of the gRPC status codes by name, as they travel in grpc-status."""

from __future__ import annotations

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

assert grpcsettings.ENVIRONMENT

STATUS_NUMBER: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}
