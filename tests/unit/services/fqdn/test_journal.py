"""What outlives the process: everything that was written, whatever else is in the files."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from services.fqdn.cache import CachedName
from services.fqdn.journal import Clocks, DiskJournal, clocks_now
from services.fqdn.learner import NameLearner
from services.fqdn.persistence import Compactor, restore
from tests.unit.services.fqdn.parts import SECOND, Clock, Maps, answer, learner, question, raw, ruling, table

BOOT, OTHER = b"a" * 36, b"b" * 36
SETS = {1: ("0.0.0.0/0", ["*.x"]), 2: ("::/0", ["*.x"])}


def clocks(clock: Clock, boot: bytes = BOOT, wall: float | None = None) -> Clocks:
    return Clocks(boot, clock.ns(), clock.now if wall is None else wall)


def journalled(path: Path, clock: Clock) -> tuple[NameLearner, DiskJournal]:
    made, journal = learner(Maps(), clock), DiskJournal(path)
    made.replace_table(table(SETS))
    restore(made, journal, clocks(clock))
    journal.begin(clocks(clock))
    made.journal = journal
    return made, journal


def content(one: NameLearner) -> dict[object, object]:
    return {
        (endpoint, known.name): (dict(known.addresses), known.ttl, known.looked_up, known.source)
        for endpoint, known in one.cache.entries()
    }


def again(path: Path, clock: Clock) -> dict[object, object]:
    return content(journalled(path, clock)[0])


def test_what_was_learned_is_there_again(tmp_path: Path) -> None:
    clock = Clock()
    one, _ = journalled(tmp_path, clock)
    for n in range(20):
        one.learn(n, ruling(n % 3), question(f"n{n}.x"), answer(f"192.0.2.{n}", "2001:db8::1", ttl=n * 10))
        clock.now += 0.5
    one.forget([(1, question("n1.x").name)])
    one.learn(1, ruling(4), question("n5.x"), answer("192.0.2.9", ttl=9))
    one.learn(1, ruling(4), question("n5.x"), answer("192.0.2.8", ttl=90))
    live = {
        key: value
        for key, value in content(one).items()
        if max(value[0].values()) > clock.ns()  # type: ignore[index]
    }
    assert 15 < len(live) < 20
    assert again(tmp_path, clock) == live, "a killed process closes nothing"
    assert again(tmp_path, clock) == live, "and one after it"


def test_the_rest_of_a_lifetime_goes_on_after_another_boot(tmp_path: Path) -> None:
    clock = Clock(now=50_000.0)
    one, _ = journalled(tmp_path, clock)
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1", ttl=100))
    one.learn(1, ruling(), question("b.x"), answer("192.0.2.2", ttl=20))
    fresh, booted = learner(Maps(), Clock(now=12.0)), Clock(now=12.0)
    restore(fresh, DiskJournal(tmp_path), clocks(booted, OTHER, wall=50_030.0))
    known = fresh.cache.name(7, question("a.x").name)
    assert known is not None
    assert known.addresses == {raw("192.0.2.1"): booted.ns() + 71 * SECOND}
    assert fresh.cache.name_count == 1


def test_compaction_keeps_everything_and_only_that(tmp_path: Path) -> None:
    clock = Clock()
    one, journal = journalled(tmp_path, clock)
    compactor = Compactor(one, journal, lambda: clocks(clock), limit=10_000)
    for n in range(1_000):
        one.learn(n, ruling(), question(f"n{n % 10}.x"), answer(f"192.0.2.{n % 250}", ttl=50))
        clock.now += 1
        one.expire()
        if compactor.due():
            assert compactor.compact()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 30_000
    assert len(list(tmp_path.iterdir())) == 2
    assert again(tmp_path, clock) == content(one)


@pytest.mark.parametrize("step", ["before the snapshot", "before its name", "before the deletions"])
def test_a_compaction_may_end_anywhere(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    one, journal = journalled(tmp_path, clock)
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1"))
    assert Compactor(one, journal, lambda: clocks(clock)).compact()
    one.learn(2, ruling(), question("b.x"), answer("192.0.2.2"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patched:
        if step == "before the snapshot":
            patched.setattr(os, "fsync", fail)
        elif step == "before its name":
            patched.setattr(Path, "replace", fail)
        else:
            patched.setattr(Path, "unlink", fail)
        compactor = Compactor(one, journal, lambda: clocks(clock))
        assert not compactor.compact()
        assert compactor.due(), "tried again"
    one.learn(3, ruling(), question("c.x"), answer("192.0.2.3"))
    assert again(tmp_path, clock) == content(one)
    assert compactor.compact()
    assert not compactor.due()
    assert again(tmp_path, clock) == content(one)


def test_no_file_keeps_the_process_from_starting(tmp_path: Path) -> None:
    """Cut, flipped and invented bytes: what is before them is there, and nothing raises."""
    clock, rng = Clock(), random.Random(5)
    one, _ = journalled(tmp_path, clock)
    for n in range(30):
        one.learn(n, ruling(), question(f"n{n}.x"), answer(f"192.0.2.{n}"))
    path = next(tmp_path.glob("*.journal"))
    whole, everything = path.read_bytes(), content(one)
    for _ in range(400):
        broken = bytearray(whole)
        at = rng.randrange(len(broken))
        kind = rng.randrange(3)
        if kind == 0:
            del broken[at:]
        elif kind == 1:
            broken[at] ^= 1 << rng.randrange(8)
        else:
            broken[at:] = rng.randbytes(rng.randrange(200))
        path.write_bytes(broken)
        fresh = learner(Maps(), clock)
        restore(fresh, DiskJournal(tmp_path), clocks(clock))
        assert content(fresh).keys() <= everything.keys()
        if at > 1_000:
            assert (7, question("n0.x").name) in content(fresh)


def test_a_disk_that_is_full_is_counted_and_started_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    one, journal = journalled(tmp_path, clock)
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        one.learn(1, ruling(), question("a.x"), answer("192.0.2.1"))
    one.learn(2, ruling(), question("b.x"), answer("192.0.2.2"))
    assert journal.broken
    assert journal.failures == 2
    compactor = Compactor(one, journal, lambda: clocks(clock))
    assert compactor.due()
    assert compactor.compact()
    one.learn(3, ruling(), question("c.x"), answer("192.0.2.3"))
    assert len(again(tmp_path, clock)) == 3


def test_a_directory_that_is_none_costs_only_the_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    journal = DiskJournal(path)
    assert list(journal.restore(clocks(Clock()))) == []
    with pytest.raises(OSError, match="file"):
        journal.begin(clocks(Clock()))
    journal.learned(1, CachedName(b"\x01a\x00"), [b"1234"], 5)
    assert journal.failures == 1


def test_this_boot_has_an_id() -> None:
    assert clocks_now(1, 2.0) == clocks_now(1, 2.0)
    assert len(clocks_now(1, 2.0).boot_id) == 36
