"""A gRPC server on its own HTTP/2: many messages leave in one write, for streams too fast for grpc.aio.

It serves unmodified gRPC clients and the same servicers as grpc.aio, behind the same edge. Messages that are
bytes already, alone or as a list, go out as they are. `connection.py` is the
protocol without I/O, `transport.py` the event loop, `dispatch.py` the way to a servicer.
"""

from axoneme.lib.h2server.limits import Limits, limits_of
from axoneme.lib.h2server.server import H2Server

__all__ = ["H2Server", "Limits", "limits_of"]
