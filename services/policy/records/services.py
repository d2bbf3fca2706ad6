"""Services of the store: `axoneme/state/services/v1/<namespace>/<name>` as far as policy needs them.

    {"labels": {…}, "selector": {…} | null, "backends": ["10.0.0.1", "2001:db8::1"], …}

Decoding never trusts what it reads; keys that it does not know are another reader's business.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from services.policy.inputs import Service
from services.policy.reading.fields import valid_namespace
from services.policy.records.malformed import MalformedRecordError

PREFIX: Final = layout.SERVICES
_KEY_PARTS: Final = 2


class _ServiceJson(msgspec.Struct):
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    backends: list[str] | None = None


_decoder = msgspec.json.Decoder(_ServiceJson)


def service_name(key: str) -> tuple[str, str] | None:
    """Namespace and name of a service's key; None for a key of another shape."""
    if not key.startswith(PREFIX):
        return None
    parts = key.removeprefix(PREFIX).split("/")
    # Both are DNS labels.
    if len(parts) != _KEY_PARTS or not all(map(valid_namespace, parts)):
        return None
    return parts[0], parts[1]


def decode_service(row: Row) -> Service | None:
    """The service of a row; None for a key that is no service's. Raises MalformedRecordError."""
    name = service_name(row.key)
    if name is None:
        return None
    try:
        raw = _decoder.decode(row.value)
        backends = {str(ipaddress.ip_address(backend)) for backend in raw.backends or ()}
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedRecordError(str(error)[:200]) from error
    return Service(
        namespace=name[0],
        name=name[1],
        labels=raw.labels or {},
        # An empty selector is none: its backends are whatever someone else wrote, never every pod.
        selector=raw.selector or None,
        backends=tuple(sorted(backends)),
    )
