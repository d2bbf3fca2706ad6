"""The IPv6 twin of a case whose addresses are all IPv4: the same verdicts must come out.

`10.1.2.0/24` becomes `2001:db8:a01:200::/56`, every prefix 32 bits longer and /0 still everything; entities,
reserved labels and ICMP messages change to their counterparts.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

_PREFIX = re.compile(r"\d+\.\d+\.\d+\.\d+(/\d+)?")
_TYPES = {8: 128, 0: 129, 13: 130, "EchoRequest": "EchoRequest", "EchoReply": "EchoReply"}


def twin_of(case: Any) -> Any:
    """The same case, or part of one, with the other family."""
    if isinstance(case, list):
        return [twin_of(one) for one in case]
    if isinstance(case, str):
        return _text(case)
    if not isinstance(case, dict):
        return case
    if case.get("proto") == "ICMP":
        case = {**case, "proto": "ICMPV6", "port": _TYPES[case["port"]]}
    if set(case) <= {"type", "family"} and "type" in case:
        assert case.get("family", "IPv4") == "IPv4"
        return {"type": _TYPES[case["type"]], "family": "IPv6"}
    return {_text(key): twin_of(child) for key, child in case.items()}


def _text(text: str) -> str:
    if text.endswith(("world-ipv4", "world-ipv6")):
        return text[:-1] + ("6" if text.endswith("4") else "4")
    if not _PREFIX.fullmatch(text):
        return text
    address, slash, bits = text.partition("/")
    if bits == "0":
        return "::/0"
    value = 0x20010DB8 << 96 | int(ipaddress.IPv4Address(address)) << 64
    return f"{ipaddress.IPv6Address(value)}{slash}{int(bits) + 32 if bits else ''}"
