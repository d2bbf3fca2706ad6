"""The load of cilium issue 47128: 200 lookups a second, 10,000 names and 10,000 fresh ones an hour, TTL 5 s.

Time is a number here, so an hour takes seconds: what is kept must not depend on how long it goes on.
"""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from pathlib import Path

import pytest

from services.fqdn.journal import Clocks, DiskJournal
from services.fqdn.persistence import Compactor
from tests.unit.services.fqdn.parts import Clock, Maps, answer, learner, question, ruling, table

PER_SECOND, BASE, FRESH_PER_HOUR, TTL = 200, 10_000, 10_000, 5
SOAK = os.environ.get("AXONEME_TEST_PROFILE") == "soak"
MINUTES = 4 * 60 if SOAK else 2
WARM_MINUTES = 60 if SOAK else 1


@pytest.mark.slow
@pytest.mark.timeout(7_200 if SOAK else 120)
def test_memory_does_not_grow_with_fresh_names(tmp_path: Path) -> None:
    clock, maps, rng = Clock(), Maps(), random.Random(3)
    one, journal = learner(maps, clock), DiskJournal(tmp_path)
    one.journal = journal
    one.replace_table(table({1: ("0.0.0.0/0", ["**.example.com"])}))
    compactor = Compactor(one, journal, lambda: Clocks(b"x" * 36, clock.ns(), clock.now), limit=1 << 20)
    assert compactor.compact()
    fresh = 0
    tracemalloc.start()
    sizes = []
    try:
        for minute in range(MINUTES):
            for _ in range(60):
                for _ in range(PER_SECOND):
                    if rng.random() * PER_SECOND * 3600 < FRESH_PER_HOUR:
                        fresh += 1
                        name = f"f{fresh}.fresh.example.com"
                    else:
                        name = f"n{rng.randrange(BASE)}.base.example.com"
                    one.learn(1, ruling(rng.randrange(1, 20)), question(name), answer("192.0.2.1", ttl=TTL))
                clock.now += 1
                while one.expire() == 0:
                    pass
                one.changes()
                if compactor.due():
                    assert compactor.compact()
            if minute >= WARM_MINUTES - 1:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        journal.close()
    print(f"{fresh} fresh names in {MINUTES} min, bytes by minute: first {sizes[0]}, last {sizes[-1]}")
    assert max(sizes) < sizes[0] * 1.1 + 500_000
    assert one.cache.name_count <= PER_SECOND * (TTL + 2)
    assert len(maps.learned) <= 19
    assert len(one.cache._interned) <= one.cache.name_count
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4 << 20
    clock.now += TTL + 2
    while one.expire() == 0:
        pass
    assert one.cache.name_count == one.cache.address_count == len(maps.learned) == 0
    assert not one.cache._interned
    assert not one.cache._due
