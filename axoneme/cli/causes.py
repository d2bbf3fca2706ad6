"""gRPC's words for a failed connection, turned into a sentence with the likely fix.

Pure. `axoneme status` names the part itself; other commands put the target of the connection in front.
"""

from __future__ import annotations

import re
from typing import Final

from axoneme.lib.errors import AxonemeError

_TARGET: Final = re.compile(r"\b(?:ipv4:|ipv6:(?:%5B)?|unix:)(\S+?)(?=:? )")
_NO_CONNECTION: Final = "failed to connect to all addresses"
_CAUSES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("connection refused",), "nothing listens there (connection refused): the process is not running"),
    (("no such file",), "its socket does not exist: the process is not running"),
    (("permission denied", "operation not permitted"), "its socket is for root only: use sudo"),
    (
        ("hostname verification", "peer name"),
        "another server answers there: its certificate carries another name",
    ),
    (
        ("certificate_verify_failed", "certificate verify failed"),
        "its certificate is not of the context's CA",
    ),
    (("no route to host", "network is unreachable"), "there is no route to it"),
    (("dns", "name resolution"), "its name cannot be resolved"),
    (
        ("socket closed", "ssl", "tls", "handshake"),
        "it closed the connection at the handshake: see your certificate with `axoneme certs show`",
    ),
)


def explain(error: AxonemeError, seconds: float) -> str:
    """Why a part cannot be asked, in a sentence with the likely fix."""
    if error.code == "DEADLINE_EXCEEDED":
        return f"no answer within {seconds:g} s: it hangs, or packets to it are lost"
    if error.code == "PERMISSION_DENIED":
        return f"your certificate may not ask it: {error.message}"
    cause = _cause(error.message) if error.code == "UNAVAILABLE" else None
    return cause or error.message.replace("\n", " ")


def connection_failure(error: AxonemeError) -> str | None:
    """`TARGET: cause` for a call that reached no server; None for every other error."""
    if error.code == "DEADLINE_EXCEEDED" and error.message.lower().startswith("deadline exceeded"):
        return "no answer in time: the server hangs, or packets to it are lost; --timeout gives it longer"
    if error.code != "UNAVAILABLE" or not error.message.startswith(_NO_CONNECTION):
        return None
    cause = _cause(error.message)
    target = _TARGET.search(error.message)
    return f"{target[1]}: {cause}" if cause and target else None


def _cause(message: str) -> str | None:
    text = message.lower()
    return next((sentence for words, sentence in _CAUSES if any(word in text for word in words)), None)
