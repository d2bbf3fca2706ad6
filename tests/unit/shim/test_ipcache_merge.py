"""The merge by rank against a list that is searched in full each time."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib import identities
from shim.ipcache import (
    Contribution,
    IpcacheMerge,
    IpcacheValue,
    LongestPrefix,
    OwnedNetworks,
    Rank,
    world_contributions,
)

PREFIXES = ("10.0.1.7/32", "10.0.1.0/24", "0.0.0.0/0", "fd00:1::7/128", "fd00:1::/64", "::/0")

statements = st.builds(
    Contribution,
    rank=st.sampled_from(Rank),
    value=st.builds(
        IpcacheValue, identity=st.integers(1, 4), tunnel_endpoint=st.sampled_from(["", "192.0.2.1"])
    ),
    source=st.sampled_from(["", "east/a", "west/b"]),
    foreign=st.booleans(),
)
steps = st.lists(
    st.tuples(st.sampled_from(["put", "remove", "drain"]), st.sampled_from(PREFIXES), statements), max_size=50
)


@given(steps)
def test_against_a_full_search(sequence: list[tuple[str, str, Contribution]]) -> None:
    merge = IpcacheMerge()
    said: dict[tuple[str, Rank, str], Contribution] = {}
    shown: dict[str, IpcacheValue] = {}
    for step, prefix, contribution in [*sequence, ("drain", PREFIXES[0], Contribution.__new__(Contribution))]:
        if step == "put":
            merge.put(prefix, contribution)
            said[(prefix, contribution.rank, contribution.source)] = contribution
        elif step == "remove":
            merge.remove(prefix, contribution.rank, contribution.source)
            said.pop((prefix, contribution.rank, contribution.source), None)
        else:
            expected = {}
            for one in PREFIXES:
                about = [c for (p, _, _), c in said.items() if p == one]
                if about:
                    expected[one] = min(about, key=lambda c: (c.rank, c.foreign, c.source)).value
            for changed, value in merge.drain().items():
                assert shown.get(changed) != value, "only real changes are told"
                if value is None:
                    del shown[changed]
                else:
                    shown[changed] = value
            assert shown == expected


def test_removing_the_winner_shows_the_next() -> None:
    merge = IpcacheMerge()
    for rank, identity in ((Rank.POD_CIDR, 3), (Rank.IDENTITY, 70), (Rank.ENDPOINT, 71)):
        merge.put("10.0.1.7/32", Contribution(rank=rank, value=IpcacheValue(identity=identity)))
    seen = []
    for rank in (Rank.ENDPOINT, Rank.IDENTITY, Rank.POD_CIDR):
        winner = merge.winner("10.0.1.7/32")
        assert winner is not None
        seen.append(winner.value.identity)
        merge.remove("10.0.1.7/32", rank)
    assert seen == [71, 70, 3]
    assert merge.winner("10.0.1.7/32") is None


def test_replace_is_everything_that_a_speaker_says() -> None:
    merge = IpcacheMerge()
    one = Contribution(rank=Rank.NODE, source="east/a", value=IpcacheValue(identity=6))
    merge.replace(Rank.NODE, "east/a", {"192.0.2.1/32": one, "192.0.2.2/32": one})
    merge.replace(Rank.NODE, "east/a", {"192.0.2.2/32": one})
    assert merge.prefixes_of(Rank.NODE, "east/a") == ["192.0.2.2/32"]


@given(
    st.sets(st.sampled_from(PREFIXES)),
    st.sampled_from(["10.0.1.7", "10.0.1.8", "10.9.9.9", "fd00:1::7", "fd00:2::"]),
)
def test_longest_prefix_against_all(prefixes: set[str], address: str) -> None:
    merge = IpcacheMerge()
    for number, prefix in enumerate(sorted(prefixes), start=1):
        merge.put(prefix, Contribution(rank=Rank.CIDR, value=IpcacheValue(identity=number)))
    covering = [p for p in prefixes if ipaddress.ip_address(address) in ipaddress.ip_network(p)]
    found = LongestPrefix(merge).find(address)
    if not covering:
        assert found is None
    else:
        longest = max(covering, key=lambda p: ipaddress.ip_network(p).prefixlen)
        assert found is merge.winner(longest)


def test_both_worlds_are_there_and_never_the_single_one() -> None:
    numbers = {prefix: said.value.identity for prefix, said in world_contributions().items()}
    assert numbers == {"0.0.0.0/0": identities.WORLD_IPV4, "::/0": identities.WORLD_IPV6}


NETWORKS = (
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "fd00::/8",
    "fd00:1::/64",
    "fd00:1::1/128",
)
changes = st.lists(st.tuples(st.booleans(), st.sampled_from(NETWORKS)), max_size=30)


@given(changes)
def test_owned_networks_against_a_full_search(sequence: list[tuple[bool, str]]) -> None:
    owned, statements = OwnedNetworks(), list[str]()
    for add, prefix in sequence:
        before = owned.revision
        if add:
            owned.add(prefix)
            statements.append(prefix)
        elif prefix in statements:
            owned.discard(prefix)
            statements.remove(prefix)
        wide = [ipaddress.ip_network(one) for one in statements if not one.endswith(("/32", "/128"))]
        shown = {}
        for one in NETWORKS:
            network = ipaddress.ip_network(one)
            shown[one] = any(
                other.version == network.version and network.subnet_of(other)  # type: ignore[arg-type]
                for other in wide
            )
            assert owned.holds(one) == shown[one]
        assert owned.revision >= before


@given(steps)
def test_the_merge_tells_its_networks_apart_from_those_outside(
    sequence: list[tuple[str, str, Contribution]],
) -> None:
    merge, said = IpcacheMerge(), dict[tuple[str, Rank, str], Contribution]()
    for step, prefix, contribution in sequence:
        if step == "put":
            merge.put(prefix, contribution)
            said[(prefix, contribution.rank, contribution.source)] = contribution
        elif step == "remove":
            merge.remove(prefix, contribution.rank, contribution.source)
            said.pop((prefix, contribution.rank, contribution.source), None)
    inside = {p for p, rank, _ in said if rank not in (Rank.CIDR, Rank.WORLD)}
    for prefix in ("10.0.1.0/24", "fd00:1::/64"):
        family = {p for p in inside if (":" in p) == (":" in prefix) and not p.endswith(("/32", "/128"))}
        assert merge.owned.holds(prefix) == bool(family)
