"""Sets of selectors: numbers before maps, the file after them, and back only when nothing uses them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from axoneme.lib.dns.sets import SetTable, possible_sets
from axoneme.lib.errors import InvalidArgument, ResourceExhausted
from axoneme.lib.policy.model import FqdnDefinition
from shim.dns.identities import MAX_AHEAD, NameIdentities
from shim.dns.learned import sweep_of
from shim.dns.table import IdentityFile, IdentityTable
from shim.localidentities import LocalIdentities, LocalKey
from shim.maps import base
from shim.maps.layout import LearnedEntry, LearnedKey
from tests.unit.shim.dns.dnsnode import dns_policy

WORLD = {4: "0.0.0.0/0", 6: "::/0"}
PREFIX = {4: "10.0.0.0/8", 6: "2001:db8::/32"}
INSIDE = {4: "10.1.2.3", 6: "2001:db8::7"}
OUTSIDE = {4: "192.0.2.7", 6: "2001:db9::7"}
POLICY = dns_policy(b"one", "a.example.com", "*.example.com")


class Names:
    """Names of a node whose maps know everything at once."""

    def __init__(self, directory: Path, **fields: int) -> None:
        self.local = LocalIdentities()
        self.file = IdentityFile(directory)
        self.names = NameIdentities(self.local, self.file, possible_sets, enabled=True, **fields)

    def want(self, *policies: object, prefixes: tuple[str, ...] = ()) -> None:
        self.local.want_prefixes(prefixes)
        self.names.want(policies, prefixes, keep=False)  # type: ignore[arg-type]

    def publish(self) -> bool:
        return self.names.publish(self.local.revision)


def test_the_file_comes_after_the_maps(tmp_path: Path) -> None:
    one = Names(tmp_path)
    before = one.local.revision
    one.want(POLICY)
    assert not one.names.publish(before), "no map knows the numbers"
    assert not one.file.path.exists()
    assert one.names.obstacle(POLICY, (), "the map of endpoint 1") is not None
    assert one.publish()
    assert not one.publish(), "once"
    assert one.file.load() == one.names.table
    assert stat.S_IMODE(one.file.path.stat().st_mode) == 0o600
    sets = {key.names for key in one.names.table.numbers}
    assert sets == {frozenset({"*.example.com"}), frozenset({"*.example.com", "a.example.com"})}
    assert {key.prefix for key in one.names.table.numbers} == set(WORLD.values())
    assert one.names.obstacle(POLICY, (), "") is not None, "the proxy has not taken it over"
    assert one.names.applied(1)
    assert one.names.obstacle(POLICY, (), "") is None


def test_the_proxy_reads_what_is_written(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(POLICY, prefixes=tuple(PREFIX.values()))
    assert one.publish()
    read = SetTable.load(one.file.path.read_bytes())
    assert (read.revision, read.selectors, read.prefixes) == (
        1,
        one.names.table.selectors,
        one.names.table.prefixes,
    )
    assert all(read.number_of(*key) == number for key, number in one.names.table.numbers.items())
    assert read.numbers() == set(one.names.table.numbers.values())


def test_a_number_lives_until_nothing_is_learned_under_it(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(POLICY)
    one.publish()
    one.names.applied(1)
    numbers = dict(one.names.table.named)
    one.want()
    assert one.publish()
    assert one.names.table.named == {}
    one.local.retire(lambda *_: False)
    assert set(numbers.values()) <= set(one.local.labels()), "the proxy may still use them"
    assert not one.names.applied(1)
    assert one.names.applied(2)
    one.local.retire(lambda *_: False)
    assert set(one.local.labels()) == {9, 10}


def test_a_set_that_comes_back_keeps_its_number(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(POLICY)
    one.publish()
    numbers = dict(one.names.table.named)
    one.want()
    one.publish()
    one.want(POLICY)
    one.publish()
    one.names.applied(3)
    one.local.retire(lambda *_: False)
    assert one.names.table.named == numbers
    assert set(numbers.values()) <= set(one.local.labels())


def test_while_a_new_set_is_not_known_the_last_file_stands(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(POLICY)
    one.publish()
    last, covered = one.names.table, one.local.revision
    one.want(dns_policy(b"two", "*.org"))
    assert not one.names.publish(covered)
    assert one.names.table is last
    assert set(last.numbers.values()) <= set(one.local.labels())
    assert one.publish()
    assert not one.names.table.texts & last.texts


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(POLICY)
    one.publish()
    key = one.names.ask(WORLD[4], ["a.example.com"])
    one.publish()
    again = Names(tmp_path)
    again.local.load(one.local.dump(), lambda *_: False, again.names.table.named.values())
    again.names.load()
    again.names.want((), (), keep=True)
    assert not again.names.publish(0)
    assert again.names.table == one.names.table
    assert again.names.unforeseen == len(one.names.table.named)
    again.want(POLICY)
    assert again.local.known_number(key, 0) == one.names.table.numbers[key]
    assert not again.publish(), "all is as it was"
    assert again.names.unforeseen >= 1


def test_numbers_of_another_state_file_are_not_gone_on_with(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(POLICY)
    one.publish()
    again = Names(tmp_path)  # without its state file
    again.names.load()
    again.want(POLICY)
    assert again.publish()
    assert again.names.table.revision == 2
    assert again.names.applied_revision == 0


def test_a_file_of_another_form_is_none(tmp_path: Path) -> None:
    file = IdentityFile(tmp_path)
    for text in ("", "[]", "{}", json.dumps({"version": 2}), '{"version":1,"revision":"x"}'):
        file.path.write_text(text)
        assert file.load() == IdentityTable()


def test_a_file_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "is-a-file").write_text("")
    one = Names(tmp_path / "is-a-file")
    one.want(POLICY)
    assert not one.publish()
    assert "cannot be written" in one.names.problem
    assert one.names.table.revision == 0
    failure = one.names.obstacle(POLICY, (), "")
    assert failure is not None
    assert "cannot be written" in failure.message


def test_unforeseen_sets_are_bounded_and_go_when_idle(tmp_path: Path) -> None:
    one = Names(tmp_path, max_on_demand=1)
    one.want(dns_policy(b"one", "a.org", "b.org", "c.org"))
    one.publish()
    key = one.names.ask(WORLD[6], ["a.org", "b.org"])
    assert one.names.ask(WORLD[6], ["b.org", "a.org"]) == key, "the same again is fine"
    with pytest.raises(ResourceExhausted) as refused:
        one.names.ask(WORLD[4], ["a.org", "b.org"])
    assert refused.value.reason == "LOCAL_IDENTITIES_EXHAUSTED"
    assert "fewer overlapping patterns" in one.names.problem
    for prefix, names in ((PREFIX[4], ["a.org"]), (WORLD[4], ["d.org"]), (WORLD[4], [])):
        with pytest.raises(InvalidArgument):
            one.names.ask(prefix, names)
    assert one.publish()
    number = one.names.table.numbers[key]
    one.names.drop_idle([number])
    one.names.drop_idle([])
    assert one.names.unforeseen == 1, "it was used a while ago"
    one.names.drop_idle([])
    assert (one.names.unforeseen, one.names.problem) == (0, "")
    assert one.publish()
    assert key not in one.names.table.numbers


def test_prefixes_are_multiplied_within_the_limit(tmp_path: Path) -> None:
    one = Names(tmp_path)
    one.want(dns_policy(b"one", "a.org", "b.org"), prefixes=tuple(PREFIX.values()))
    one.publish()
    assert len(one.names.table.named) == 2 * 4
    many = [f"n{number}.org" for number in range(MAX_AHEAD // 3)]
    one.want(dns_policy(b"two", *many), prefixes=tuple(PREFIX.values()))
    one.publish()
    assert len(one.names.table.named) == 2 * len(many)
    assert one.names.ask(PREFIX[4], [many[0]]), "the others when they are asked for"


# --- what the shim does to learned addresses when no proxy lives


@pytest.mark.parametrize("v", [4, 6])
def test_a_sweep_moves_what_is_inside_a_prefix(v: int) -> None:
    names = frozenset({"*.org"})
    table = IdentityTable(
        1,
        frozenset({FqdnDefinition("*.org", True)}),
        frozenset({PREFIX[v]}),
        {LocalKey(PREFIX[v]): 10, LocalKey(WORLD[v], names): 11, LocalKey(PREFIX[v], names): 12},
    )
    keys = {ip: LearnedKey(1, base.address_bytes(ip)).pack() for ip in (INSIDE[v], OUTSIDE[v])}

    def entry(number: int) -> bytes:
        return LearnedEntry(number, 5).pack()

    inside, outside = keys[INSIDE[v]], keys[OUTSIDE[v]]
    steps = sweep_of(table, [(inside, entry(11)), (outside, entry(11))])
    assert steps == ([(inside, entry(12))], [])
    assert sweep_of(table, [(inside, entry(12)), (outside, entry(12))]) == ([(outside, entry(11))], [])
    assert sweep_of(table, [(inside, entry(99)), (outside, entry(10))]) == ([], [inside, outside])
