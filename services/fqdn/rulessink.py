"""Rules of the policy service's stream into the rule book.

SubscribeDnsRules ─► DnsRulesSubscriber ─► RulesSink ─► RuleBook ─► changed(subjects): table, file, shim
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from axoneme.lib.intent import Failure
from axoneme.lib.policy.dnsrules import DnsRules
from services.fqdn.rulebook import RuleBook


class RulesSink:
    """Takes rules into the book. After a restart the book holds those of the disk; the first snapshot says
    which of them are no more."""

    def __init__(self, book: RuleBook, changed: Callable[[Collection[str]], None]) -> None:
        self._book = book
        self._changed = changed
        self._complete = False
        self._told: set[str] = set()

    async def apply(
        self, upserts: Mapping[str, DnsRules], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """See `intentstream.codec.Sink`."""
        gone = set(removals)
        for key, rules in upserts.items():
            self._book.set_rules(key, rules)
        self._told |= upserts.keys()
        self._told -= gone
        if complete and not self._complete:
            self._complete = True
            gone |= self._book.current().keys() - self._told
        for key in gone:
            self._book.remove(key)
        if upserts or gone:
            self._changed({*upserts, *gone})
        return {}
