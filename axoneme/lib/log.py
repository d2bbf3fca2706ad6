"""Logs: one JSON object a line on standard error.

`msg` is constant text; values travel as keys by `extra=`, and the keys are the constants below, so that one
word means one thing in all processes. Foreign text (an error of the kernel, of etcd) is clipped.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

NODE = "node"
ENDPOINT = "endpoint"
IDENTITY = "identity"
REVISION = "revision"
EPOCH = "epoch"
CLUSTER = "cluster"
POLICY = "policy"
METHOD = "method"
CALLER = "caller"
PEER = "peer"
STREAM = "stream"
ADDRESS = "address"
INTERFACE = "interface"
KEY = "key"
MAP = "map"
PATH = "path"
PROCESS = "process"
REASON = "reason"
CODE = "code"
COUNT = "count"
SECONDS = "seconds"
ERROR = "error"
TASK = "task"
SIGNAL = "signal"

CLIP_CHARACTERS = 256
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Renders a record as one line: ts, level, logger, msg, trace_id, the record's own keys, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if trace_id := _trace_id():
            line["trace_id"] = trace_id
        for key, value in record.__dict__.items():
            if key not in _PLAIN and key not in line:
                line[key] = _plain(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def setup(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends records from `level` on to `stream`. Raises ValueError for an unknown level."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is unknown; choose one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    for noisy in ("asyncio", "grpc", "aiohttp.access", "grpc._cython.cygrpc"):
        logging.getLogger(noisy).setLevel(max(LEVELS[level], logging.WARNING))


def clip(text: object) -> str:
    """Foreign text, short enough for a log line."""
    plain = str(text)
    return plain if len(plain) <= CLIP_CHARACTERS else plain[: CLIP_CHARACTERS - 1] + "…"


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | bool | None):
        return clip(value) if isinstance(value, str) else value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return clip(value)


def _trace_id() -> str:
    """Trace of the running span; empty without the tracing library or outside a span."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
