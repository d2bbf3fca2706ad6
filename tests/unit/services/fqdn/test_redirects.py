"""The proxy's end of SyncRedirects, without a wire; with the shim's own order as its other end."""

from __future__ import annotations

import random

from axoneme.lib.policy.model import AnyPeer, FqdnDefinition
from services.fqdn.redirects import Applied, Ready, RedirectSession, RedirectSync, Wanted
from services.fqdn.rulebook import RuleBook
from shim.dns.order import RedirectOrder
from tests.unit.services.fqdn.test_rules import rule, rules_of

KEY = ("0.0.0.0/0", frozenset({"a.x"}))
KEY6 = ("::/0", frozenset({"a.x"}))
ONE, TWO = (rules_of(rule(AnyPeer(), FqdnDefinition(text))) for text in ("a.x", "b.x"))


def opened(sync: RedirectSync, woken: list[int] | None = None) -> RedirectSession:
    return sync.open(lambda: (woken if woken is not None else []).append(1))


def test_a_new_session_is_told_everything_once() -> None:
    book = RuleBook()
    book.set_rules("subject:1", ONE)
    asked = [KEY, KEY6]
    sync = RedirectSync(book, lambda: asked)
    sync.applied(4)
    session = opened(sync)
    assert session.take(53) == [], "the shim speaks first"
    assert not sync.connected
    assert sync.on_snapshot(session, {"subject:2": b"", "subject:1": ONE.digest})
    assert sync.connected
    assert sync.subjects == {"subject:1", "subject:2"}
    assert session.take(53) == [
        Ready({"subject:1": ONE.digest}, True, 53),
        Applied(4),
        Wanted(KEY),
        Wanted(KEY6),
    ]
    assert session.take(53) == []


def test_changes_are_merged_until_they_are_sent() -> None:
    book, woken = RuleBook(), list[int]()
    sync = RedirectSync(book)
    session = opened(sync, woken)
    sync.on_snapshot(session, {})
    session.take(0)
    woken.clear()
    for rules in (ONE, TWO):
        book.set_rules("subject:1", rules)
        sync.rules_changed(["subject:1"])
    sync.applied(1)
    sync.applied(2)
    sync.want([KEY, KEY6])
    sync.want([KEY, KEY6])
    assert woken
    assert session.take(0) == [
        Ready({"subject:1": TWO.digest}, False, 0),
        Applied(2),
        Wanted(KEY),
        Wanted(KEY6),
    ]
    book.remove("subject:1")
    sync.rules_changed(["subject:1"])
    assert session.take(53) == [Ready({"subject:1": b""}, False, 53)], "and the port, when it is another"


def test_a_newer_session_ends_the_older_which_is_not_listened_to() -> None:
    book, woken = RuleBook(), list[int]()
    book.set_rules("subject:1", ONE)
    book.set_rules("subject:1", rules_of())
    sync = RedirectSync(book)
    older = opened(sync, woken)
    sync.on_snapshot(older, {"subject:1": ONE.digest})
    newer = opened(sync)
    assert older.ended
    assert not sync.on_snapshot(older, {})
    assert not sync.on_changed(older, "subject:1", b"")
    assert book.kept_count() == 1
    sync.close(older)
    assert sync.on_changed(newer, "subject:1", b"")
    assert book.kept_count() == 0
    sync.close(newer)
    assert not sync.connected


def test_no_query_of_a_redirect_is_without_its_rules() -> None:
    """Random orders of news, with both ends' own code: what the kernel redirects by is always effective."""
    rng = random.Random(11)
    for _ in range(300):
        book, order = RuleBook(), RedirectOrder()
        sync = RedirectSync(book)
        wanted, in_force = rules_of(), rules_of()
        session: RedirectSession | None = None
        for _ in range(40):
            match rng.randrange(6):
                case 0:
                    wanted = rules_of(
                        *(rule(AnyPeer(), port=port) for port in rng.sample(range(50, 56), rng.randrange(4)))
                    )
                case 1:
                    book.set_rules("subject:1", wanted)
                    sync.rules_changed(["subject:1"])
                case 2 if session is None:
                    session = sync.open(lambda: None)
                    sync.on_snapshot(session, order.open({"subject:1": in_force.digest}))
                case 3 if session is not None:
                    for told in session.take(53):
                        assert isinstance(told, Ready)
                        order.hear(told.digests, complete=told.complete, proxy_port=told.proxy_port)
                case 4 if session is not None and not order.lacks("subject:1", wanted.digest):
                    in_force = wanted
                    for subject, digest in order.changes({"subject:1": in_force.digest}).items():
                        sync.on_changed(session, subject, digest)
                case 5 if session is not None and rng.random() < 0.2:
                    sync.close(session)
                    order.close()
                    session = None
            effective = {one.rule for one in book.effective("subject:1")}
            assert in_force.rules <= effective
