"""Which redirects may be switched to, and what the proxy hears of them."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from shim.dns.order import RedirectOrder

KEYS = st.sampled_from(["subject:1", "subject:2", "subject:3"])
DIGESTS = st.sampled_from([b"", b"one", b"two"])
REDIRECTS = st.dictionaries(KEYS, DIGESTS)


def test_without_a_session_nothing_has_to_wait() -> None:
    order = RedirectOrder()
    assert not order.lacks("subject:1", b"one")
    assert order.changes({"subject:1": b"one"}) == {}


def test_with_a_session_redirects_wait_for_their_rules() -> None:
    order = RedirectOrder()
    assert order.open({"subject:1": b"one"}) == {"subject:1": b"one"}
    assert order.lacks("subject:1", b"two")
    assert not order.hear({"subject:2": b"two"}, complete=True, proxy_port=1)
    assert order.lacks("subject:1", b"two")
    assert order.hear({"subject:1": b"two"}, complete=False, proxy_port=1), "somebody waited for it"
    assert not order.lacks("subject:1", b"two")
    assert not order.hear({"subject:1": b"two"}, complete=False, proxy_port=1), "nobody waits any more"
    assert not order.lacks("subject:1", b""), "what needs no rules never waits"


def test_rules_that_are_not_named_in_a_whole_are_gone() -> None:
    order = RedirectOrder()
    order.open({})
    order.hear({"subject:1": b"one"}, complete=True, proxy_port=1)
    order.hear({}, complete=True, proxy_port=1)
    assert order.lacks("subject:1", b"one")


def test_who_waits_may_go_on_when_the_session_ends() -> None:
    order = RedirectOrder()
    order.open({})
    assert order.lacks("subject:1", b"one")
    assert order.close()
    assert not order.lacks("subject:1", b"one")
    assert not order.close()


def test_nothing_is_heard_of_a_session_that_is_over() -> None:
    order = RedirectOrder()
    assert not order.hear({"subject:1": b"one"}, complete=True, proxy_port=1)
    order.open({})
    assert order.lacks("subject:1", b"one")


@given(first=REDIRECTS, states=st.lists(REDIRECTS))
def test_the_proxy_knows_what_is_redirected(
    first: Mapping[str, bytes], states: list[Mapping[str, bytes]]
) -> None:
    order = RedirectOrder()
    known = dict(order.open(first))
    for state in states:
        known.update(order.changes(state))
        assert {k: v for k, v in known.items() if v} == {k: v for k, v in state.items() if v}
        assert order.changes(state) == {}, "and is told once"
