"""Numbers of prefixes and DNS selectors: stable, never two meanings at once, back when nobody needs them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import CidrDefinition, Entity, EntitySelector, FqdnDefinition
from axoneme.lib.policy.selection import selects
from shim.localidentities import LocalIdentities, LocalKey

FIRST = identities.LOCAL_SCOPE


def nothing(prefix: str, number: int) -> bool:
    return False


def holding(ipcache: dict[str, int]) -> Callable[[str, int], bool]:
    return lambda prefix, number: ipcache.get(prefix) == number


def labels_of(local: LocalIdentities, prefix: str) -> LabelSet:
    number = local.number_of(prefix)
    assert number is not None
    labels = local.labels_of(number)
    assert labels is not None
    return labels


def test_each_prefix_has_a_number_and_the_labels_of_its_family() -> None:
    local = LocalIdentities()
    local.want_prefixes(["10.0.0.0/8", "2001:db8::/32", "10.1.2.3/32"])
    assert set(local.labels()) == {9, 10, FIRST, FIRST + 1, FIRST + 2}
    assert labels_of(local, "10.0.0.0/8") == LabelSet.parse(["reserved:world-ipv4", "cidr:10.0.0.0/8"])
    assert labels_of(local, "2001:db8::/32") == LabelSet.parse(["reserved:world-ipv6", "cidr:2001-db8--0/32"])


@pytest.mark.parametrize(("prefix", "number"), [("0.0.0.0/0", 9), ("::/0", 10)])
def test_everything_is_the_world_and_needs_no_number(prefix: str, number: int) -> None:
    local = LocalIdentities()
    local.want_prefixes([prefix])
    assert local.number_of(prefix) == number
    assert set(local.labels()) == {9, 10}
    assert local.publishable(local.revision) == {}


@pytest.mark.parametrize("prefix", ["::ffff:0:0/96", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1/128"])
def test_mapped_ipv6_is_never_told_apart_since_maps_would_read_it_as_ipv4(prefix: str) -> None:
    local = LocalIdentities()
    local.want_prefixes([prefix, "::/64"])
    assert local.publishable(local.revision) == {"::/64": FIRST}


@pytest.mark.parametrize("prefix", ["10.1.0.0/16", "2001:db8:1::/48"])
def test_world_rules_and_wider_prefixes_cover_a_prefix(prefix: str) -> None:
    local = LocalIdentities()
    local.want_prefixes([prefix])
    labels = labels_of(local, prefix)
    wide = ("10.0.0.0/8", "2001:db8::/32")
    assert selects(EntitySelector(Entity.WORLD), labels)
    assert selects(CidrDefinition(include=wide), labels)
    assert not selects(CidrDefinition(include=wide, exclude=(prefix,)), labels)
    assert not selects(CidrDefinition(include=("192.0.2.0/24", "2001:db8:2::/48")), labels)


def test_numbers_of_dns_selectors() -> None:
    local = LocalIdentities()
    names = frozenset({"example.com", "*.example.com"})
    local.want_names([LocalKey("0.0.0.0/0", names), LocalKey("10.0.0.0/8", names)])
    bare, inside = local.number_of("0.0.0.0/0", names), local.number_of("10.0.0.0/8", names)
    assert bare is not None
    assert inside is not None
    labels = local.labels_of(inside)
    assert labels is not None
    assert set(labels.texts()) == {
        "reserved:world-ipv4",
        "cidr:10.0.0.0/8",
        "fqdn:example.com",
        "fqdn:*.example.com",
    }
    assert selects(FqdnDefinition("example.com"), labels)
    assert not selects(FqdnDefinition("example.org"), labels)
    assert local.publishable(local.revision) == {}, "learned addresses never go into the ipcache"
    local.want_names([])
    local.retire(lambda *_: True)
    assert set(local.labels()) == {9, 10}


def test_only_what_every_map_knows_is_published() -> None:
    local = LocalIdentities()
    local.want_prefixes(["10.0.0.0/8"])
    known = local.revision
    local.want_prefixes(["10.0.0.0/8", "10.1.0.0/16"])
    assert set(local.publishable(known)) == {"10.0.0.0/8"}
    assert set(local.publishable(local.revision)) == {"10.0.0.0/8", "10.1.0.0/16"}


def test_a_number_leaves_the_ipcache_then_the_maps_then_is_free() -> None:
    local = LocalIdentities()
    local.want_prefixes(["10.0.0.0/8"])
    local.want_prefixes([])
    assert local.publishable(local.revision) == {}
    local.retire(lambda prefix, number: (prefix, number) == ("10.0.0.0/8", FIRST))
    assert FIRST in local.labels(), "the kernel's ipcache still has it"
    before = local.revision
    local.retire(nothing)
    assert FIRST not in local.labels()
    assert local.revision > before
    assert local.labels_of(FIRST) is not None, "flows of the past still carry it"
    local.free(before)
    local.want_prefixes(["10.0.0.0/8"])
    assert local.number_of("10.0.0.0/8") == FIRST, "some map still had it: same meaning, same number"
    local.want_prefixes([])
    local.retire(nothing)
    local.free(local.revision)
    local.want_prefixes(["192.0.2.0/24"])
    assert local.number_of("192.0.2.0/24") == FIRST + 1, "a free number is not used again at once"


def test_numbers_go_round() -> None:
    last = (identities.LOCAL_SCOPE << 1) - 1
    local = LocalIdentities(first=last)
    local.want_prefixes(["10.0.0.0/8"])
    local.want_prefixes(["10.0.0.0/8", "192.0.2.0/24"])
    assert (local.number_of("10.0.0.0/8"), local.number_of("192.0.2.0/24")) == (last, FIRST)


def test_a_restart_keeps_numbers_and_knows_what_was_published() -> None:
    local = LocalIdentities()
    local.want_prefixes(["10.0.0.0/8", "2001:db8::/32"])
    again = LocalIdentities()
    again.load(local.dump(), lambda prefix, _: prefix == "10.0.0.0/8")
    assert dict(again.labels()) == dict(local.labels())
    assert again.publishable(0) == {"10.0.0.0/8": FIRST}
    assert set(again.publishable(again.revision)) == {"10.0.0.0/8", "2001:db8::/32"}
    again.want_prefixes([*again.wanted_prefixes(), "192.0.2.0/24"])
    assert again.number_of("192.0.2.0/24") == FIRST + 2
    empty = LocalIdentities()
    empty.load({}, nothing)
    assert set(empty.labels()) == {9, 10}


PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32", "2001:db8::1/128"]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.sets(st.sampled_from(PREFIXES))),
        st.tuples(st.sampled_from(["map", "restart"]), st.integers(0, 2)),
        st.tuples(st.sampled_from(["publish", "retire", "free"]), st.none()),
    ),
    max_size=40,
)


@given(steps)
def test_no_number_ever_has_two_meanings(sequence: list[tuple[str, object]]) -> None:
    """Maps of three endpoints learn the table as it comes; the ipcache must never be ahead of one of them."""
    local, ipcache = LocalIdentities(), dict[str, int]()
    maps: list[tuple[int, dict[int, LabelSet]]] = [(0, dict(local.labels())) for _ in range(3)]

    def covered() -> int:
        return min(revision for revision, _ in maps)

    for what, argument in sequence:
        if what == "want":
            assert isinstance(argument, set)
            local.want_prefixes(argument)
        elif what == "map":
            assert isinstance(argument, int)
            maps[argument] = (local.revision, dict(local.labels()))
        elif what == "publish":
            ipcache = local.publishable(covered())
        elif what == "retire":
            local.retire(holding(ipcache))
        elif what == "free":
            local.free(covered())
        else:
            again = LocalIdentities()
            again.load(local.dump(), holding(ipcache))
            local, maps = again, [(0, known) for _, known in maps]
        for prefix, number in ipcache.items():
            labels = local.labels_of(number)
            assert labels is not None
            for _, known in maps:
                assert known.get(number) == labels, f"{prefix} reads {number}"
        for _, known in maps:
            for number, labels in known.items():
                assert local.labels_of(number) in (None, labels), "a map still means something else by it"
