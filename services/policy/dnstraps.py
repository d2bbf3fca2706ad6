"""Traps about names: what toFQDNs names is learned only where a DNS rule lets it be looked up (R-32)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from axoneme.lib import dnsnames
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import FqdnDefinition
from services.policy.rules import FqdnPeer, ParsedPolicy, Rule

_DNS: Final = "dns"
_EVERY: Final = FqdnDefinition("*", pattern=True)
_SHOWN: Final = 3


def unlearned(policy: ParsedPolicy, rule: Rule, in_force: Iterable[DnsRules | None]) -> Iterator[str]:
    """What toFQDNs of a rule names and a subject cannot look up, in words.

    The policy's own DNS rules count, and those that its subjects have already: `in_force` has an element for
    each subject, or for each of their different policies.
    """
    own = _names_of(policy)
    by_subject = [own | _names_in_force(rules) for rules in in_force] or [own]
    for entry in rule.entries:
        if not entry.peers.fqdns:
            continue
        if not all(by_subject):
            yield (
                f"{entry.path} uses toFQDNs, but no DNS rule lets its subjects look names up: "
                "names are learned by rules.dns only"
            )
            continue
        lost = [one for one in entry.peers.fqdns if not all(_askable(one, names) for names in by_subject)]
        if lost:
            texts = ", ".join(one.text for one in lost[:_SHOWN])
            more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
            yield (
                f"{entry.path} names {texts}{more} in toFQDNs, which no DNS rule lets its subjects look up: "
                "add it to rules.dns"
            )


def _names_of(policy: ParsedPolicy) -> frozenset[FqdnDefinition]:
    ports = (port for rule in policy.rules for entry in rule.entries for port in entry.ports)
    found = (one for port in ports if port.l7 is not None and port.l7.parser == _DNS for one in port.l7.dns)
    return frozenset(FqdnDefinition(one.text, one.pattern) for one in found)


def _names_in_force(rules: DnsRules | None) -> frozenset[FqdnDefinition]:
    if rules is None:
        return frozenset()
    return frozenset(name for rule in rules.rules for name in ((_EVERY,) if rule.every_name else rule.names))


def _askable(wanted: FqdnPeer, names: Iterable[FqdnDefinition]) -> bool:
    """Whether a name may be looked up; of a pattern whether any of its names may be, as far as is known."""
    if wanted.pattern:
        return any(one.pattern or dnsnames.matches(wanted.text, pattern=True, name=one.text) for one in names)
    return any(dnsnames.matches(one.text, pattern=one.pattern, name=wanted.text) for one in names)
