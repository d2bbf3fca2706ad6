"""Words for ICMP types and codes, as Hubble's summaries spell them."""

from __future__ import annotations

from typing import Final

_UNREACHABLE_4: Final = {
    0: "Net", 1: "Host", 2: "Protocol", 3: "Port", 4: "FragmentationNeeded", 5: "SourceRoutingFailed",
    6: "NetUnknown", 7: "HostUnknown", 9: "NetAdminProhibited", 10: "HostAdminProhibited",
    13: "CommAdminProhibited",
}  # fmt: skip
_UNREACHABLE_6: Final = {
    0: "NoRouteToDst", 1: "AdminProhibited", 2: "BeyondScopeOfSrc", 3: "Address", 4: "Port",
    5: "SrcAddressFailedPolicy", 6: "RejectRouteToDst",
}  # fmt: skip
_TYPES_4: Final[dict[int, tuple[str, dict[int, str] | None]]] = {
    0: ("EchoReply", None),
    3: ("DestinationUnreachable", _UNREACHABLE_4),
    4: ("SourceQuench", None),
    5: ("Redirect", {0: "Net", 1: "Host", 2: "TOS+Net", 3: "TOS+Host"}),
    8: ("EchoRequest", None),
    9: ("RouterAdvertisement", None),
    10: ("RouterSolicitation", None),
    11: ("TimeExceeded", {0: "TTLExceeded", 1: "FragmentReassemblyTimeExceeded"}),
    12: ("ParameterProblem", {0: "PointerIndicatesError", 1: "MissingOption", 2: "BadLength"}),
    13: ("TimestampRequest", None),
    14: ("TimestampReply", None),
}
_TYPES_6: Final[dict[int, tuple[str, dict[int, str] | None]]] = {
    1: ("DestinationUnreachable", _UNREACHABLE_6),
    2: ("PacketTooBig", None),
    3: ("TimeExceeded", {0: "HopLimitExceeded", 1: "FragmentReassemblyTimeExceeded"}),
    4: ("ParameterProblem", {0: "ErroneousHeader", 1: "UnrecognizedNextHeader", 2: "UnrecognizedIPv6Option"}),
    128: ("EchoRequest", None),
    129: ("EchoReply", None),
    133: ("RouterSolicitation", None),
    134: ("RouterAdvertisement", None),
    135: ("NeighborSolicitation", None),
    136: ("NeighborAdvertisement", None),
    137: ("Redirect", None),
}


def describe(ip_version: int, icmp_type: int, code: int) -> str:
    """Say what a message is, such as `ICMPv4 EchoRequest` or `ICMPv4 DestinationUnreachable(Port)`."""
    known = (_TYPES_4 if ip_version == 4 else _TYPES_6).get(icmp_type)
    if known is None:
        return f"ICMPv{ip_version} {icmp_type}({code})"
    name, codes = known
    if codes is None:
        return f"ICMPv{ip_version} {name}" if code == 0 else f"ICMPv{ip_version} {name}(Code: {code})"
    return f"ICMPv{ip_version} {name}({codes.get(code, f'Code: {code}')})"
