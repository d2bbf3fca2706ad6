"""Words for DNS messages as Hubble's summaries spell them: record types, response codes, one line a message.

Names arrive in presentation form, where a byte that does not print is `\\DDD`; `printable` makes sure of it,
for a summary goes to terminals, also by way of clients that escape nothing. Pure text work, without I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_TYPES: Final = {
    1: "A", 2: "NS", 3: "MD", 4: "MF", 5: "CNAME", 6: "SOA", 7: "MB", 8: "MG", 9: "MR", 10: "NULL", 11: "WKS",
    12: "PTR", 13: "HINFO", 14: "MINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB", 24: "SIG", 25: "KEY",
    28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 37: "CERT", 39: "DNAME", 41: "OPT", 43: "DS", 44: "SSHFP",
    46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 59: "CDS",
    60: "CDNSKEY", 64: "SVCB", 65: "HTTPS", 99: "SPF", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR",
    255: "ANY", 256: "URI", 257: "CAA",
}  # fmt: skip
"""Names of record types by the numbers of IANA's registry."""
_CODES: Final = {
    1: "Format Error", 2: "Server Failure", 3: "Non-Existent Domain", 4: "Not Implemented",
    5: "Query Refused", 6: "Name Exists when it should not", 7: "RR Set Exists when it should not",
    8: "RR Set that should exist does not", 9: "Server Not Authoritative for zone",
    10: "Name not contained in zone", 16: "Bad OPT Version", 17: "Key not recognized",
    18: "Signature out of time window", 19: "Bad TKEY Mode", 20: "Duplicate key name",
    21: "Algorithm not supported", 22: "Bad Truncation", 23: "Bad/missing Server Cookie",
}  # fmt: skip
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


def type_name(number: int) -> str:
    """`AAAA` for 28; `TYPE1234` for a number without a name (RFC 3597)."""
    return _TYPES.get(number) or f"TYPE{number}"


def code_words(rcode: int) -> str:
    """`Non-Existent Domain` for 3; `Unknown` for a code without words."""
    return _CODES.get(rcode, "Unknown")


def printable(text: str) -> str:
    """The text with every byte that is not printable ASCII as `\\DDD`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda match: "".join(f"\\{byte:03d}" for byte in _bytes(match[0])), text)


def request_summary(query: str, qtype: int) -> str:
    """`DNS Query www.example.com. A`."""
    return f"DNS Query {query} {type_name(qtype)}"


def response_summary(
    query: str, qtype: int, *, rcode: int, ips: Iterable[str], cnames: Iterable[str], ttl: int
) -> str:
    """`DNS Answer "192.0.2.7" TTL: 30 (Proxy www.example.com. A)`; a failure is told by its code."""
    parts = [f"RCode: {code_words(rcode)}"] if rcode else []
    if not rcode and (addresses := ",".join(ips)):
        parts.append(_quoted(addresses))
    if not rcode and (aliases := ",".join(cnames)):
        parts.append(f"CNAMEs: {_quoted(aliases)}")
    return f"DNS Answer {' '.join(parts)} TTL: {ttl} (Proxy {query} {type_name(qtype)})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", "surrogateescape")
