"""One side of a flow as people write it (pod, address, labels, number); a port with its protocol."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from axoneme.lib.errors import InvalidArgument

if TYPE_CHECKING:
    from axoneme.api.policy.v1.policy_pb2 import FlowParty

PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58, "igmp": 2, "vrrp": 112}
_NAMES: Final = {number: name.upper() for name, number in PROTOCOLS.items()}
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_MAX_IDENTITY: Final = 0xFFFF_FFFF
_DIGITS: Final = 10
_POD: Final = re.compile(r"[a-z0-9]([-a-z0-9]*)?/[a-z0-9][-a-z0-9.]*")


def parse_party(text: str, flag: str) -> FlowParty:
    """`namespace/pod`, an address, `label=value,…` (of Kubernetes, or `source:label=value`), `reserved:name`
    or an identity number.

    Raises InvalidArgument naming the flag.
    """
    from axoneme.api.policy.v1.policy_pb2 import FlowParty, LabelTexts, PodName

    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS and 0 < int(text) <= _MAX_IDENTITY:
        return FlowParty(identity=int(text))
    if _is_address(text):
        return FlowParty(ip=text)
    if "=" in text or ":" in text:
        labels = [_label(one.strip()) for one in text.split(",") if one.strip()]
        return FlowParty(labels=LabelTexts(labels=labels))
    if _POD.fullmatch(text):
        namespace, _, name = text.partition("/")
        return FlowParty(pod=PodName(namespace=namespace, name=name))
    fix = "write namespace/pod, an address, labels such as k8s:app=web, reserved:host, or an identity number"
    raise InvalidArgument(f"{flag}: {text[:80]!r} is nobody; {fix}", reason="INVALID_PARTY")


def _label(text: str) -> str:
    """A label without a source is Kubernetes's, as in a pod's metadata."""
    return text if ":" in text.partition("=")[0] else f"k8s:{text}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_port(text: str) -> tuple[int, int]:
    """Protocol number and port of `443/tcp`, `53/udp`, `8/icmp`, `443` (TCP). Raises InvalidArgument."""
    number, _, name = text.partition("/")
    protocol = PROTOCOLS.get(name.lower() or "tcp")
    if protocol is None or not _NUMBER.fullmatch(number) or int(number) > 65535:
        fix = f"write number/protocol with one of {', '.join(PROTOCOLS)}"
        raise InvalidArgument(f"--port: {text[:40]!r} is no port; {fix}", reason="INVALID_PORT")
    return protocol, int(number)


def protocol_name(number: int) -> str:
    """TCP, UDP, … or the number."""
    return _NAMES.get(number, str(number))
