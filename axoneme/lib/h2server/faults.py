"""What ends a connection or a stream, with the word of RFC 9113 section 7 that the other side is told."""

# ruff: noqa: N818  named by the situation, as the errors of axoneme.lib.errors are
from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """Error codes of RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):
    """The connection ends with GOAWAY of this code."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamFault(Exception):
    """The stream ends with RST_STREAM of this code; others go on."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class CallFault(Exception):
    """The call ends with a gRPC status, by the name of its code; others go on."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class HttpFault(Exception):
    """What was asked for is no gRPC call: answered with an HTTP status (RFC 9110 section 15)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
