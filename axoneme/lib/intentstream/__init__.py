"""Intent streams over gRPC: `StreamHost` serves them in a service, `IntentClient` keeps one open on a node.

All rules live in `axoneme.lib.intent`; here are sockets, clocks and tasks only.
"""

from axoneme.lib.intentstream.client import IntentClient, StreamState, Targets
from axoneme.lib.intentstream.codec import PublisherCodec, Sink, SubscriberCodec
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.intentstream.timing import Timing

__all__ = [
    "IntentClient",
    "PublisherCodec",
    "Sink",
    "StreamHost",
    "StreamState",
    "SubscriberCodec",
    "Targets",
    "Timing",
]
