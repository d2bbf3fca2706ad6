"""From one map schema to the next: which older folder of pins there is, and how its entries become ours.

    <bpffs>/axoneme/<node>/v<schema>/<map>, …/links/<place>-<program>

A new schema is a new folder. Maps that did not change are pinned in both; the others are copied entry by
entry. Each step of a schema names only the maps whose entries changed; steps run one after the other, so
that a node may leave out versions.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from axoneme.lib import log
from shim.maps import layout
from shim.privileged.mapset import Convert

logger = logging.getLogger(__name__)

_CT_GREW = 8  # the proxy's port and padding, at the end


def _grow_connection(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    return key, value + bytes(_CT_GREW)


STEPS: Mapping[int, Mapping[str, Convert]] = {1: {layout.CT.name: _grow_connection}}
"""Schema that is left → map → how its entries become those of the next schema."""


def older_folder(pins: Path) -> Path | None:
    """The newest folder of an earlier schema beside this one, if there is any."""
    own = _number(pins.name)
    found = [path for path in _siblings(pins) if (number := _number(path.name)) and number < own]
    return max(found, key=lambda path: _number(path.name), default=None)


def converters_from(folder: Path | None) -> dict[str, Convert]:
    """Map → the conversion of all steps from that folder's schema to this one."""
    if folder is None:
        return {}
    chains: dict[str, list[Convert]] = {}
    for number in range(_number(folder.name), layout.SCHEMA_VERSION):
        for name, convert in STEPS.get(number, {}).items():
            chains.setdefault(name, []).append(convert)
    return {name: _chained(steps) for name, steps in chains.items()}


def move_links(older: Path, pins: Path) -> None:
    """Brings the pins of links along; a pin that is here already stays, and its older twin goes.

    Which interfaces were adopted is told by folders, which are made again.
    """
    target = pins / "links"
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted((older / "links").glob("*")):
        if (target / path.name).exists():
            path.unlink()
        else:
            path.rename(target / path.name)
    for path in (older / "adopted").glob("*"):
        (pins / "adopted" / path.name).mkdir(mode=0o700, parents=True, exist_ok=True)


def remove_older(pins: Path) -> None:
    """Removes every folder of an earlier schema, which nothing uses any more."""
    while (folder := older_folder(pins)) is not None:
        shutil.rmtree(folder)
        logger.info("older schema removed", extra={log.PATH: folder.name})


def _chained(steps: list[Convert]) -> Convert:
    def convert(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
        for step in steps:
            made = step(key, value)
            if made is None:
                return None
            key, value = made
        return key, value

    return convert


def _siblings(pins: Path) -> list[Path]:
    return [path for path in pins.parent.glob("v*") if path.is_dir()] if pins.parent.is_dir() else []


def _number(name: str) -> int:
    digits = name.removeprefix("v")
    return int(digits) if name.startswith("v") and digits.isascii() and digits.isdigit() else 0
