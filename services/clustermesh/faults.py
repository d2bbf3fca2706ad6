"""Faults of a service, collected so that one answer names them all."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from axoneme.lib.errors import FieldViolation, InvalidArgument

MAX_FAULTS: Final = 100
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SHOWN: Final = 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Faults:
    """What is wrong, in the order in which it was found."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """One fault: path of the field, what is wrong and how to mend it."""
        if len(self.violations) < MAX_FAULTS:
            self.violations.append(FieldViolation(field, description))

    def raise_if_any(self) -> None:
        """Raises InvalidArgument that names all of them."""
        if self.violations:
            field, description = self.violations[0]
            more = len(self.violations) - 1
            rest = f" (and {more} more fault{'s' if more > 1 else ''})" if more else ""
            raise InvalidArgument(f"{field}: {description}{rest}", violations=self.violations)

    def dns_label(self, field: str, text: str) -> None:
        """A name of lower-case letters, digits and dashes."""
        if not _DNS_LABEL.fullmatch(text):
            self.add(
                field, f"{shown(text)} is no DNS label; use at most 63 lower-case letters, digits and '-'"
            )

    def address(self, field: str, text: str) -> Address | None:
        """An address that packets can be sent to; None when it is a fault."""
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            self.add(field, f"{shown(text)} is no IPv4 or IPv6 address")
            return None
        if getattr(found, "scope_id", None) or getattr(found, "ipv4_mapped", None):
            self.add(field, f"{shown(text)} has a zone or is an IPv4 address in IPv6 form; write it plainly")
        elif found.is_unspecified or found.is_loopback or found.is_multicast or found.is_link_local:
            kind = "link-local"
            if not found.is_link_local:
                kind = (
                    "loopback" if found.is_loopback else "multicast" if found.is_multicast else "unspecified"
                )
            self.add(field, f"{found} is {kind}; name an address that nodes can reach")
        elif found == ipaddress.IPv4Address("255.255.255.255"):
            self.add(field, f"{found} is the broadcast address; name an address that nodes can reach")
        else:
            return found
        return None

    def port(self, field: str, number: int) -> None:
        """1–65535."""
        if not 1 <= number <= 65_535:
            self.add(field, f"{number} is outside 1-65535")

    def unique(self, field: str, names: Iterable[str], what: str) -> None:
        """No name twice; `field` has a place for the position."""
        seen: dict[str, int] = {}
        for position, name in enumerate(names):
            if name in seen:
                self.add(field.format(position), f"{what} {shown(name)} is at {seen[name]} too; keep one")
            seen.setdefault(name, position)


def shown(text: str) -> str:
    """Foreign text in an answer: quoted, short, on one line."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
