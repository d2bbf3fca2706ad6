"""Identities: prefixes and sets against a walk through all of them, and the shim's own labels."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.policy.model import FqdnDefinition
from services.fqdn.tables import IdentityTable
from shim.dns.table import IdentityFile
from shim.dns.table import IdentityTable as ShimTable
from shim.localidentities import LocalIdentities, LocalKey
from tests.unit.services.fqdn.parts import question, raw, table

networks4 = st.builds(
    lambda n, bits: ipaddress.ip_network((n >> (32 - bits) << (32 - bits) if bits else 0, bits)),
    st.integers(0x0A000000, 0x0A0000FF),
    st.integers(8, 32),
)
networks6 = st.builds(
    lambda n, bits: ipaddress.ip_network(((0x20010DB8 << 96 | n) >> (128 - bits) << (128 - bits), bits)),
    st.integers(0, 255),
    st.integers(16, 128),
)


@given(
    named=st.lists(st.one_of(networks4, networks6), max_size=12),
    asked=st.lists(st.one_of(networks4, networks6), min_size=1, max_size=8),
)
def test_the_longest_named_prefix(named: list[object], asked: list[object]) -> None:
    made = table({}, prefixes=[str(one) for one in named])
    for network in asked:
        address = network.network_address  # type: ignore[attr-defined]
        around = [one for one in named if one.version == address.version and address in one]  # type: ignore[attr-defined,operator]
        best = max(around, key=lambda one: one.prefixlen, default=None)  # type: ignore[attr-defined]
        wanted = str(best) if best is not None else "0.0.0.0/0" if address.version == 4 else "::/0"
        assert made.prefix_of(address.packed) == wanted


@given(
    known=st.lists(st.frozensets(st.sampled_from("abcd"), min_size=1), max_size=8, unique=True),
    names=st.frozensets(st.sampled_from("abcd"), min_size=1),
)
def test_the_largest_known_subset(known: list[frozenset[str]], names: frozenset[str]) -> None:
    sets = {100 + n: ("0.0.0.0/0", one) for n, one in enumerate(known)}
    made = table(sets)
    number = made.best_number_of("0.0.0.0/0", names)
    subsets = [one for one in known if one <= names]
    if not subsets:
        assert number == 0
    else:
        assert sets[number][1] in subsets
        assert len(sets[number][1]) == max(map(len, subsets))
    assert (made.number_of("0.0.0.0/0", names) is not None) == (names in known)
    assert made.best_number_of("::/0", names) == 0


def test_the_file_of_the_shim_is_understood(tmp_path: Path) -> None:
    keys = [
        LocalKey("0.0.0.0/0", frozenset({"*.x", "a.x"})),
        LocalKey("10.0.0.0/8"),
        LocalKey("::/0", frozenset({"a.x"})),
    ]
    numbers = {key: (1 << 24) + n for n, key in enumerate(keys)}
    IdentityFile(tmp_path).save(
        ShimTable(
            revision=5,
            selectors=frozenset({FqdnDefinition("*.x", True), FqdnDefinition("a.x")}),
            prefixes=frozenset({"10.0.0.0/8"}),
            numbers=numbers,
        )
    )
    found = IdentityTable.read(tmp_path / "dns-identities.json")
    assert found.revision == 5
    assert found.matching(question("a.x").name) == {"*.x", "a.x"}
    assert found.matching(question("b.x").name) == {"*.x"}
    assert found.number_of("0.0.0.0/0", frozenset({"*.x", "a.x"})) == 1 << 24
    assert found.prefix_of(raw("10.2.3.4")) == "10.0.0.0/8"
    assert [found.holds((1 << 24) + n) for n in range(4)] == [True, False, True, False]
    assert found.numbers_with("a.x") == [1 << 24, (1 << 24) + 2]
    local = LocalIdentities()
    local.want_names([key for key in keys if key.names])
    local.want_prefixes([key.prefix for key in keys if not key.names])
    for key, number in numbers.items():
        shim_number = local.number_of(key.prefix, key.names)
        assert shim_number is not None
        assert found.labels_of(number) == local.labels_of(shim_number)
    assert found.labels_of(identities.WORLD_IPV4) == identities.RESERVED[identities.WORLD_IPV4][1]
    assert found.labels_of(70_000) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":2}',
        '{"version":1,"revision":1,"selectors":[3],"prefixes":[],"identities":[]}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f"
    path.write_text(text)
    with pytest.raises(ValueError):
        IdentityTable.read(path)
    assert IdentityTable.read(tmp_path / "none").revision == 0
