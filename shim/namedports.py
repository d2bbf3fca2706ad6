"""Named ports of a workload between the node API, the command line and the shim's own form, without I/O.

The own form is (protocol, name, number), sorted: equal ports are equal tuples. A name stands for at most one
port of a protocol; the same name may stand for different ports of different protocols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from axoneme.api.identity.v1 import identity_pb2
from axoneme.lib.errors import InvalidArgument

Ports = tuple[tuple[int, str, int], ...]

MAX_NAMED_PORTS = 64
_FIELD = "named_ports"
_NUMBER_BY_PROTOCOL = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOL_BY_NUMBER = {number: name for name, number in _NUMBER_BY_PROTOCOL.items()}
_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def decode_named_ports(ports: Iterable[identity_pb2.NamedPort]) -> Ports:
    """Ports of a request. Raises InvalidArgument."""
    return _checked((port.protocol, port.name, port.port) for port in ports)


def named_ports_message(ports: Ports) -> list[identity_pb2.NamedPort]:
    """Ports of an answer."""
    return [
        identity_pb2.NamedPort(name=name, port=number, protocol=_PROTOCOL_BY_NUMBER[protocol])
        for protocol, name, number in ports
    ]


def parse_named_ports(texts: Iterable[str]) -> Ports:
    """Ports as people write them: `http=80/tcp`, without a protocol TCP. Raises InvalidArgument."""
    found = []
    for text in texts:
        name, equals, rest = text.partition("=")
        number, _, protocol = rest.partition("/")
        if not equals or not (number.isascii() and number.isdecimal()):
            raise InvalidArgument.of_field(
                _FIELD, f"{text[:64]!r} is not NAME=NUMBER/PROTOCOL; write http=80/tcp"
            )
        found.append((protocol or "tcp", name, int(number)))
    return _checked(found)


def _checked(ports: Iterable[tuple[str, str, int]]) -> Ports:
    number_by_key: dict[tuple[int, str], int] = {}
    for text, name, number in ports:
        protocol = _NUMBER_BY_PROTOCOL.get(text.upper())
        if protocol is None:
            raise InvalidArgument.of_field(_FIELD, f"protocol {text[:16]!r} is none of tcp, udp and sctp")
        lower = name.lower()
        if not _NAME.fullmatch(lower):
            raise InvalidArgument.of_field(
                _FIELD,
                f"{name[:64]!r} is no port name; write 1-15 letters, digits and single dashes",
            )
        if not 1 <= number <= 65_535:
            raise InvalidArgument.of_field(_FIELD, f"port {number} of {name} is not within 1-65535")
        if number_by_key.setdefault((protocol, lower), number) != number:
            raise InvalidArgument.of_field(
                _FIELD, f"{text.lower()} port {name} is given twice with different numbers; keep one"
            )
    if len(number_by_key) > MAX_NAMED_PORTS:
        raise InvalidArgument.of_field(
            _FIELD, f"{len(number_by_key)} ports are given; at most {MAX_NAMED_PORTS} are kept"
        )
    return tuple(sorted((protocol, name, number) for (protocol, name), number in number_by_key.items()))
