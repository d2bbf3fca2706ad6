"""`dns-identities.json`: the node's local identities as the DNS proxy reads them.

    {"version":1,"revision":7,"selectors":[{"text":"*.x.com","pattern":true}],"prefixes":["10.0.0.0/8"],
     "identities":[[16777217,"0.0.0.0/0",["*.x.com"]],[16777218,"10.0.0.0/8",[]]]}

Every policy map in force knows every number in the file. It is written whole, beside the old one, and
renamed: who reads it sees one revision or another, never a mixture. After a restart of the shim it also says
which numbers the maps of the earlier life know.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from axoneme.lib import log
from axoneme.lib.policy.model import FqdnDefinition
from shim.localidentities import LocalKey

logger = logging.getLogger(__name__)

FILE_NAME: Final = "dns-identities.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class IdentityTable:
    """One revision of the file; `numbers` of prefixes alone are there too, with no names."""

    revision: int = 0
    selectors: frozenset[FqdnDefinition] = frozenset()
    prefixes: frozenset[str] = frozenset()
    numbers: Mapping[LocalKey, int] = field(default_factory=dict)

    @property
    def texts(self) -> frozenset[str]:
        """The selectors as in labels."""
        return frozenset(one.text for one in self.selectors)

    @property
    def named(self) -> dict[LocalKey, int]:
        """Numbers of sets of names: those that learned addresses can have."""
        return {key: number for key, number in self.numbers.items() if key.names}

    def says_as(self, other: IdentityTable) -> bool:
        """Whether two tables differ in their revision at most."""
        return replace(self, revision=0) == replace(other, revision=0)

    def dump(self) -> dict[str, Any]:
        """Form for the file."""
        selectors = sorted((one.text, one.pattern) for one in self.selectors)
        rows = [[number, key.prefix, sorted(key.names)] for key, number in self.numbers.items()]
        return {
            "version": VERSION,
            "revision": self.revision,
            "selectors": [{"text": text, "pattern": pattern} for text, pattern in selectors],
            "prefixes": sorted(self.prefixes),
            "identities": sorted(rows),
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> IdentityTable:
        """Reverse of `dump`. Raises ValueError, KeyError or TypeError for another form."""
        if dumped["version"] != VERSION:
            raise ValueError(f"version {dumped['version']} instead of {VERSION}")
        return cls(
            revision=int(dumped["revision"]),
            selectors=frozenset(
                FqdnDefinition(str(one["text"]), bool(one["pattern"])) for one in dumped["selectors"]
            ),
            prefixes=frozenset(map(str, dumped["prefixes"])),
            numbers={
                LocalKey(str(prefix), frozenset(map(str, names))): int(number)
                for number, prefix, names in dumped["identities"]
            },
        )


class IdentityFile:
    """Reads and writes the file of one node."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME

    def load(self) -> IdentityTable:
        """What is in the file; an empty table when there is none, or none of this form."""
        try:
            return IdentityTable.load(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return IdentityTable()
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("identities of names not read", extra={log.ERROR: log.clip(error)})
            return IdentityTable()

    def save(self, table: IdentityTable) -> None:
        """Replaces the file. Raises OSError; then the old one is there."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(table.dump(), file, separators=(",", ":"))
            file.flush()
            os.fsync(fd)
        fresh.replace(self.path)
