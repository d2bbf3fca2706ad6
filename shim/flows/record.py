"""The event record that the datapath writes into the ring buffer: 96 bytes, one size for every event.

Offsets follow `struct axoneme_event` in shim/bpf; a BTF test compares both. Numbers are in host byte order
(little endian), addresses are 16 bytes with IPv4 as ::ffff:a.b.c.d. This module only describes bytes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

EVENT_BYTES: Final = 96

_FIELDS: Final[list[tuple[str, str, int]]] = [
    ("time_ns", "<u8", 0),  # since boot, suspend included
    ("source_identity", "<u4", 8),
    ("destination_identity", "<u4", 12),
    ("source_ip", "V16", 16),
    ("destination_ip", "V16", 32),
    ("source_port", "<u2", 48),  # ICMP: identifier
    ("destination_port", "<u2", 50),  # ICMP: type
    ("protocol", "u1", 52),
    ("tcp_flags", "u1", 53),  # ICMP: code
    ("event_type", "u1", 54),
    ("sub_type", "u1", 55),
    ("endpoint_id", "<u2", 56),
    ("direction", "u1", 58),
    ("flags", "u1", 59),
    ("verdict", "u1", 60),
    ("match_type", "u1", 61),
    ("drop_reason", "u1", 62),
    ("pad", "u1", 63),
    ("cookie", "<u4", 64),
    ("ifindex", "<u4", 68),
    ("length", "<u4", 72),
    ("policy_generation", "<u4", 76),
    ("source_mac", "V6", 80),
    ("destination_mac", "V6", 86),
    ("pad2", "<u4", 92),
]

EVENT_DTYPE: Final = np.dtype(
    {
        "names": [name for name, _, _ in _FIELDS],
        "formats": [form for _, form, _ in _FIELDS],
        "offsets": [offset for _, _, offset in _FIELDS],
        "itemsize": EVENT_BYTES,
    }
)

Records = npt.NDArray[np.void]
"""An array of EVENT_DTYPE."""

# event_type
DROP, TRACE, POLICY_VERDICT = 1, 4, 5
LAYER7 = 129  # never written by the datapath: what a proxy reported
# sub_type of TRACE
TO_ENDPOINT, TO_PROXY, TO_STACK, FROM_ENDPOINT = 0, 1, 3, 5
# direction
INGRESS, EGRESS = 1, 2
# flags
FLAG_IPV6, FLAG_REPLY_KNOWN, FLAG_REPLY, FLAG_AUDIT, FLAG_FRAGMENT, FLAG_RELATED = 1, 2, 4, 8, 16, 32
# drop_reason
INVALID_SOURCE_IP, POLICY_DENIED, POLICY_DENY = 132, 133, 181


def records_from_bytes(data: bytes) -> Records:
    """Read whole records from bytes (files and tests). Raises ValueError for a partial one."""
    return np.frombuffer(data, dtype=EVENT_DTYPE)


def make_record(**values: Any) -> Records:
    """Make one record (an array of length 1) from named fields; what is not named is zero."""
    record = np.zeros(1, dtype=EVENT_DTYPE)
    for name, value in values.items():
        record[name] = np.void(value) if isinstance(value, bytes) else value
    return record
