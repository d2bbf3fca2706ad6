"""Words for the numbers of the flow API, shared by filters, flags and printers."""

from __future__ import annotations

from typing import Final

EVENT_TYPES: Final = {
    "drop": 1,
    "debug": 2,
    "capture": 3,
    "trace": 4,
    "policy-verdict": 5,
    "trace-sock": 7,
    "l7": 129,
    "agent": 130,
}
"""CiliumEventType.type by name."""

TRACE_POINTS: Final = (
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
)
"""Names of CiliumEventType.sub_type of traces, by number."""

RESERVED_IDENTITIES: Final = {
    1: "host",
    2: "world",
    3: "unmanaged",
    4: "health",
    5: "init",
    6: "remote-node",
    7: "kube-apiserver",
    8: "ingress",
    9: "world-ipv4",
    10: "world-ipv6",
    11: "overlay-to-encrypt",
}
"""Names of the reserved identities as flows show them."""
