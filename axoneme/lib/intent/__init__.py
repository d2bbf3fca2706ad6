"""Intent streams without I/O: what services tell a shim that the kernel must hold.

`IntentTable` is what a service wants every subscriber to hold, `Subscription` the publisher's end of one
stream, `Subscriber` the other end. The rules (R1–R8) are in docs/intent-streams.md;
tests/model/test_intent_fuzz.py drops each of them in turn and watches the ends diverge.
`axoneme.lib.intentstream` carries all this over gRPC.
"""

from axoneme.lib.intent.backoff import Backoff
from axoneme.lib.intent.limits import Limits
from axoneme.lib.intent.messages import Ack, Change, Failure, Header, Hello, Interest, Request, Resync, Update
from axoneme.lib.intent.publisher import ProtocolError, Subscription
from axoneme.lib.intent.subscriber import Delta, Step, Subscriber
from axoneme.lib.intent.table import IntentTable, fresh_epoch

__all__ = [
    "Ack",
    "Backoff",
    "Change",
    "Delta",
    "Failure",
    "Header",
    "Hello",
    "IntentTable",
    "Interest",
    "Limits",
    "ProtocolError",
    "Request",
    "Resync",
    "Step",
    "Subscriber",
    "Subscription",
    "Update",
    "fresh_epoch",
]
