"""Maglev tables: made for changes that want them, made again when lost, read whole bit by bit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AxonemeError, Unavailable
from axoneme.lib.intent import Failure
from shim.lb.books import Books
from shim.lb.changes import Change

TABLES_AT_ONCE: Final = 64
"""Each is a descriptor until it is in its place."""
TABLES_AUDITED: Final = 16
"""Tables whose every element one audit reads; the next audit goes on where this one ends."""


class TableMaker(Protocol):
    """What of the datapath is needed here."""

    @property
    def maps(self) -> Mapping[str, BpfMap]: ...

    async def new_maglev_table(self, size: int) -> BpfMap:
        """An empty table. Raises AxonemeError or BpfError."""

    async def open_maglev_table(self, set_id: int) -> BpfMap | None:
        """The table of a set. Raises AxonemeError or BpfError."""


class MaglevTables:
    """The tables of one node; the datapath makes and opens them, the books know what is in each."""

    def __init__(self, datapath: TableMaker, books: Books) -> None:
        self._datapath, self._books = datapath, books
        self._audited = 0

    async def make(self, changes: Iterable[Change]) -> None:
        """Gives changes the tables that they want; without them a change has its failure."""
        for change in changes:
            try:
                for backends in change.wanted_tables:
                    change.tables[backends] = await self._datapath.new_maglev_table(backends.table_size)
            except Unavailable as error:
                change.failure = Failure(error.code, error.reason, error.message)
            except (AxonemeError, BpfError) as error:
                change.failure = lacking(f"this node cannot make Maglev tables: {error}")

    async def restore(self, numbers: Iterable[int]) -> list[str]:
        """Makes tables again that sets have lost; returns what was done."""
        found = []
        for number in numbers:
            backends = self._books.sets.get(number)
            if backends is not None:
                table = await self._datapath.new_maglev_table(backends.table_size)
                found.append(await asyncio.to_thread(_replace_table, self._books, number, table))
        return found

    async def audit(self) -> list[str]:
        """Reads some tables whole, those after the last ones."""
        numbers = sorted(self._books.tables_of())
        later = [number for number in numbers if number > self._audited] or numbers
        found = []
        for number in later[:TABLES_AUDITED]:
            self._audited = number
            table = await self._datapath.open_maglev_table(number)
            if table is not None:
                found.append(await asyncio.to_thread(_repair_table, self._books, number, table))
        return [text for text in found if text]


def groups(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Changes in order, with few tables in each group."""
    group: list[Change] = []
    tables = 0
    for change in changes:
        wanted = len(change.wanted_tables)
        if group and tables + wanted > TABLES_AT_ONCE:
            yield group
            group, tables = [], 0
        group.append(change)
        tables += wanted
    if group:
        yield group


def lacking(text: str) -> Failure:
    """The failure of what this node cannot do."""
    return Failure("FAILED_PRECONDITION", "FEATURE_MISSING", text)


def _replace_table(books: Books, number: int, table: BpfMap) -> str:
    try:
        return books.replace_table(number, table)
    finally:
        table.close()


def _repair_table(books: Books, number: int, table: BpfMap) -> str:
    try:
        return books.repair_table(number, table)
    finally:
        table.close()
