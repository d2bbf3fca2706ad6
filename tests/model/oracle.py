"""Verdicts by brute force: policies as submitted and a world of parties, one flow -> a verdict per direction.

An answer is allow, deny, redirect:<parser>, none (not enforced here) or error (the policies contradict each
other). It shares no code with readers, resolver or algebra: plain dictionaries, no maps, no precedence words,
no indexes, and is slow on purpose. The cases of tests/data/conformance show that it is right.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.model.oracle_ports import block_bits
from tests.model.oracle_rules import Rule, rules_for
from tests.model.oracle_world import (
    PROTOCOLS,
    Party,
    is_subject,
    numbers_of,
    parties_of,
    reserved,
    settings_of,
)

STRICTNESS = {"disabled": 1, "required": 2, "test-always-fail": 3}
SHOWN = {"required": "spire"}
DECISIVE = ("deny", "redirect", "allow", "pass")


@dataclass(frozen=True)
class Answer:
    """A verdict; `audit` when only audited policies would have denied."""

    verdict: str
    audit: bool = False
    auth: str = ""
    matched: frozenset[str] = frozenset()
    strongest: frozenset[str] = frozenset()


class Oracle:
    """Answers for one case. `unlisted`: sections of a NetworkPolicy count although policyTypes omits them."""

    def __init__(self, case: Mapping[str, Any], *, unlisted: bool = False) -> None:
        self.settings = settings_of(case)
        self.parties = parties_of(case)
        self.world = {
            "case": case, "settings": self.settings, "parties": self.parties, "unlisted": unlisted,
        }  # fmt: skip
        self._rules = functools.lru_cache(maxsize=None)(
            lambda name: rules_for(self.world, self.parties[name])
        )

    def verdict(self, direction: str, subject: str, peer: str, proto: str, port: int) -> Answer:
        """What the policies of `subject` say about a flow with `peer`, by names of the case."""
        one, other = self.parties[subject], self.parties[peer]
        if not is_subject(one, self.settings):
            return Answer("none")
        if self.settings["mode"] == "never":
            return Answer("allow")
        rules = self._rules(subject)
        if conflicts(rules):
            return Answer("error")
        matched = self._matched(rules, direction, one, other, PROTOCOLS[proto], port)
        enforced = self._decide(rules, matched, direction, one, other, audited=False)
        if enforced.verdict != "allow":
            return enforced
        every = self._decide(rules, matched, direction, one, other, audited=True)
        return (
            Answer("allow", True, "", every.matched, every.strongest) if every.verdict == "deny" else enforced
        )

    def _matched(
        self, rules: list[Rule], direction: str, one: Party, other: Party, protocol: int, port: int
    ) -> list[Rule]:
        """Every entry of the direction that matches, once per port that matches, and how specific it is."""
        found = []
        owner = one if direction == "ingress" else other
        for entry in (entry for rule in rules for entry in rule["entries"]):
            if entry["direction"] != direction or not entry["peer"](other):
                continue
            for written in entry["ports"]:
                numbered = self._numbered(written, owner, direction)
                if numbered is None or numbered["protocol"] not in (0, protocol):
                    continue
                if numbered["protocol"] == 0 or numbered["first"] <= port <= numbered["last"]:
                    redirected = entry["action"] == "allow" and numbered["parser"]
                    action = "redirect" if redirected else entry["action"]
                    bits = block_bits(numbered, port, protocol)
                    found.append({**entry, "port": numbered, "does": action, "bits": bits})
        return found

    def _numbered(self, port: Mapping[str, Any], owner: Party, direction: str) -> dict[str, Any] | None:
        """A named port as a number: of the subject itself, or of all pods with the labels of the peer."""
        if "name" not in port:
            return dict(port)
        if direction == "ingress":
            number = owner["ports"].get((port["protocol"], port["name"]))
            numbers = set() if number is None else {number}
        else:
            numbers = numbers_of(self.parties, owner, port["protocol"], port["name"])
        if len(numbers) != 1:
            return None
        number = numbers.pop()
        return {**port, "first": number, "last": number}

    def _decide(
        self,
        rules: list[Rule],
        matched: list[Rule],
        direction: str,
        one: Party,
        other: Party,
        *,
        audited: bool,
    ) -> Answer:
        mine = [rule for rule in rules if audited or not rule["audit"]]
        entries = [entry for entry in matched if audited or not entry["audit"]]
        locked = (
            any(direction in rule["locks"] for rule in mine)
            or self.settings["mode"] == "always"
            or "init" in reserved(one)
        )
        names = frozenset(entry["policy"] for entry in entries)
        decided = _by_tiers(entries)
        if decided:
            strongest = frozenset(entry["policy"] for entry in decided)
            return Answer(_text(decided[0]), False, _auth(decided, entries), names, strongest)
        if not locked or self._local_host(mine, direction, one, other):
            return Answer("allow", False, "", names)
        return Answer("deny", False, "", names)

    def _local_host(self, rules: list[Rule], direction: str, one: Party, other: Party) -> bool:
        """The local host reaches pods unless something denies it."""
        if direction != "ingress" or other["kind"] != "host" or one["kind"] == "host":
            return False
        entries = any(entry["direction"] == "ingress" for rule in rules for entry in rule["entries"])
        return bool(self.settings["localhost"] and entries)


def _by_tiers(entries: list[Rule]) -> list[Rule]:
    """The entries that decide, tier by tier; a pass goes on with the next tier."""
    for tier in sorted({entry["level"][0] for entry in entries}):
        here = [entry for entry in entries if entry["level"][0] == tier]
        first = min(entry["level"] for entry in here)
        there = [entry for entry in here if entry["level"] == first]
        action = min((entry["does"] for entry in there), key=DECISIVE.index)
        best = [entry for entry in there if entry["does"] == action]
        if action == "redirect":
            strongest = min(entry["port"]["strength"] for entry in best)
            best = [entry for entry in best if entry["port"]["strength"] == strongest]
        if action != "pass":
            return best
    return []


def _text(entry: Rule) -> str:
    return f"redirect:{entry['port']['parser']}" if entry["does"] == "redirect" else str(entry["does"])


def _auth(decided: list[Rule], entries: list[Rule]) -> str:
    """The mode of the most specific entries that decide; without one, the strictest of less specific ones."""
    if decided[0]["does"] == "deny":
        return ""

    def place(entry: Rule) -> tuple[int, bool]:
        return entry["bits"], not entry["anyone"]

    top = max(map(place, decided))
    stated = [entry["auth"] for entry in decided if place(entry) == top and entry["auth"]]
    if not stated:
        wider = [entry for entry in entries if entry["does"] in ("allow", "redirect") and place(entry) < top]
        stated = [entry["auth"] for entry in wider if entry["auth"]]
    strictest = max(stated, key=STRICTNESS.__getitem__, default="")
    return SHOWN.get(strictest, strictest)


def conflicts(rules: list[Rule]) -> list[tuple[str, str]]:
    """Pairs of policies with one group of peers and ports that want different proxies or proofs.

    A deny of the whole group settles it, and what is only tried out contradicts nothing.
    """
    groups: dict[Any, list[Rule]] = {}
    for entry in (entry for rule in rules if not rule["audit"] for entry in rule["entries"]):
        for port in entry["ports"]:
            where = (port["protocol"], port.get("first"), port.get("last"), port.get("name"))
            key = (entry["direction"], entry["level"], entry["group"], where)
            groups.setdefault(key, []).append({**entry, "port": port})
    return [
        (one["policy"], other["policy"])
        for group in groups.values()
        if all(entry["action"] == "allow" for entry in group)
        for i, one in enumerate(group)
        for other in group[:i]
        if _conflict(one, other)
    ]


def _conflict(one: Rule, other: Rule) -> bool:
    if one["auth"] and other["auth"] and one["auth"] != other["auth"]:
        return True
    parsers = {one["port"]["parser"], other["port"]["parser"]} - {None}
    listeners = {one["port"].get("listener"), other["port"].get("listener")} - {None}
    equally = one["port"].get("strength") == other["port"].get("strength")
    return (len(parsers) > 1 and parsers != {"http", "tls"}) or (len(listeners) > 1 and equally)
