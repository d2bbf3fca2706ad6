"""A file of identities that is there and cannot be read at the start: the kernel keeps what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.fqdn.config import FqdnConfig
from services.fqdn.core import Core
from services.fqdn.model import Released
from services.fqdn.pins import LearnedWrite
from services.fqdn.tables import IdentityTable
from tests.unit.services.fqdn.parts import Maps, answer, question, ruling

NUMBER = 16_777_300
ADDRESSES = [("192.0.2.1", "0.0.0.0/0"), ("2001:db8::1", "::/0")]


def file_of(prefix: str) -> str:
    rows = [[NUMBER, prefix, ["a.example.com"]]]
    selectors = [{"text": "a.example.com", "pattern": False}]
    return json.dumps(
        {"version": 1, "revision": 3, "selectors": selectors, "prefixes": [], "identities": rows}
    )


@pytest.mark.parametrize(("ip", "prefix"), ADDRESSES)
def test_nothing_is_taken_away_until_it_can_be_read(tmp_path: Path, ip: str, prefix: str) -> None:
    cfg = FqdnConfig(node_name="n1", state_directory=tmp_path, run_directory=tmp_path)
    cfg.identities_file.write_text('{"version": 1, "revi')
    core, maps = Core(cfg), Maps()
    core.restore()
    assert core.learner.table_unreadable
    core.learner.maps = maps
    address = answer(ip).addresses[0]
    held = LearnedWrite(7, address, NUMBER, 1 << 62)
    maps.write_learned([held])
    core.learner.adopt([held])
    assert core.learner.learn(1, ruling(7), question("a.example.com"), answer(ip)) is Released.NOW
    for _ in core.learner.review():
        pass
    assert maps.learned == {(7, address): (NUMBER, 1 << 62)}

    cfg.identities_file.write_text(file_of(prefix))
    assert core.read_identities()
    assert not core.learner.table_unreadable
    for _ in core.learner.review():
        pass
    assert maps.learned[7, address][0] == NUMBER
    core.learner.replace_table(IdentityTable(4))
    for _ in core.learner.review():
        pass
    assert not maps.learned, "a table that can be read takes away what it does not hold"
