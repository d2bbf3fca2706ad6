"""What load balancing has in the kernel, and every step from one state to the next.

Backends, slots, tables, source ranges and frontends refer to each other by number. A packet finds them in
the order frontend → set → slot or table → backend, so a change is written from the end:

    backends ─► slots ─► source ranges ─► tables ─► frontends        then what is left over, in reverse

A set in the kernel never changes. Another list is another set with another number, complete before a
frontend names it; the old one stays for a moment longer than any program runs. An owner whose new state
cannot be written in full gets its old one back and fails alone.

Calls block and come one at a time, from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from shim import socketchoices
from shim.lb import affinity, records
from shim.lb.backends import Backends
from shim.lb.changes import NOTHING, Applied, Change, Leaving, blame, going
from shim.lb.lbmaps import LbMaps, number_of
from shim.lb.model import Target
from shim.lb.numbers import Numbers
from shim.lb.plan import BackendSet, Plan
from shim.maps import lb
from shim.maps.base import number_key
from shim.nodeipcache import failure_of
from shim.reconciler import WriteFault

GRACE_SECONDS: Final = 1.0
"""How long a set outlives the last frontend that named it: programs run for microseconds."""
_RANGE: Final = b"\x01"


class Books:
    """All owners of one node."""

    def __init__(self, maps: Mapping[str, BpfMap], *, clock: Callable[[], float]) -> None:
        self.maps = LbMaps(maps)
        self.applied: dict[str, Applied] = {}
        self.backends = Backends(self.maps.backends)
        self.sets: dict[int, BackendSet] = {}
        self.last_set = Numbers()
        self._affinity, self._sockets = maps[lb.AFFINITY.name], maps[lb.SOCKETS.name]
        self._clock = clock
        self._owners: dict[bytes, str] = {}
        self._leaving: list[Leaving] = []
        self._inherited: set[int] = set()
        self._held: set[bytes] = set()
        self._stale_due: float | None = None

    # --- start

    def load(self, last_backend: int, last_set: int) -> None:
        """Takes over what an earlier life left in the maps, and the numbers that it gave last."""
        self.maps.load()
        self.backends.load(last_backend)
        self._inherited = self.maps.named_sets()
        self.last_set.resume(last_set, max(self.maps.all_sets(), default=0))

    # --- a change, step by step

    def prepare(self, owner: str, plan: Plan) -> Change:
        """Which sets an owner has already, and numbers for the others."""
        change = Change(owner=owner, plan=plan)
        present = self.applied.get(owner, NOTHING)
        for backends in plan.sets():
            number = present.sets.get(backends, 0)
            if not number and (number := self._adopt(plan, backends)):
                change.adopted.append(backends)
            if not number:
                number = self.last_set.take(self.sets)
                change.fresh.append(backends)
            change.sets[backends] = number
            self.sets[number] = backends
        return change

    def apply(self, changes: Sequence[Change]) -> None:
        """Writes changes in the one order that is safe; what fails is undone and has its `failure` set."""
        for change in changes:
            self.backends.number(change.plan.targets)
        self._fill_tables(changes)
        self._write_backends(changes)
        self._write_sets(changes)
        self._switch_tables(changes)
        self._write_frontends(changes)
        for change in changes:
            if change.failure is not None:
                self._undo(change)
        self._carry_clients(changes, remove=True)
        for change in going(changes):
            self._owners.update(dict.fromkeys(map(records.frontend_key, change.plan.frontends), change.owner))
        for change in going(changes):
            self._settle(change)

    def finish(self, *, at_once: bool = False) -> bool:
        """Removes what nothing refers to any more and whose grace is over; whether there was something."""
        now, removed = self._clock(), False
        due = [one for one in self._leaving if at_once or one.due <= now]
        self._leaving = [one for one in self._leaving if not (at_once or one.due <= now)]
        for one in due:
            removed = True
            for number, backends in one.sets.items():
                self._drop_set(number, backends)
            self.backends.let_go(one.targets)
        if self._stale_due is not None and (at_once or self._stale_due <= now):
            removed = self._prune_rest() or removed
            self._stale_due = None
        return removed

    def next_due(self) -> float | None:
        """When `finish` has something to do."""
        dues = [one.due for one in self._leaving]
        return min(dues + ([] if self._stale_due is None else [self._stale_due]), default=None)

    def prune(self, held: Collection[bytes] = ()) -> None:
        """Removes frontends that no owner has; what they led to follows after the grace.

        `held` are those of owners that could not be written yet: they keep what an earlier life gave them.
        """
        content = self.maps.frontends.content
        self.maps.frontends.drop([key for key in content if key not in self._owners and key not in held])
        self._held = {key for key in held if key in content and key not in self._owners}
        if not self._held:
            self._inherited = set()
        self._stale_due = self._clock() + GRACE_SECONDS

    # --- for whoever shows or audits

    def tables_of(self) -> dict[int, BackendSet]:
        """Sets with a Maglev table, by number."""
        return {number: one for number, one in self.sets.items() if one.table_size}

    def fill(self, backends: BackendSet, table: BpfMap) -> None:
        """Writes all elements of a table. Raises BpfError."""
        table.update_batch(list(records.table_entries(backends, self.backends.numbers)))

    def replace_table(self, number: int, table: BpfMap) -> str:
        """Gives a set a table again; returns what was done. Raises BpfError."""
        self.fill(self.sets[number], table)
        fault = self.maps.tables.switch(number_key(number), table)
        what = fault.message if fault else "missing or changed, made again"
        return f"{lb.MAGLEV.name}: set {number}: {what}"

    def repair_table(self, number: int, table: BpfMap) -> str:
        """Compares what is inside a table with what should be, and repairs. Raises BpfError."""
        actual = dict(table.items())
        wanted = records.table_entries(self.sets[number], self.backends.numbers)
        wrong = [(key, value) for key, value in wanted if actual.get(key) != value]
        table.update_batch(wrong)
        return (
            f"{lb.MAGLEV.name}: set {number}: {len(wrong)} elements changed, written again" if wrong else ""
        )

    # --- inside

    def _adopt(self, plan: Plan, backends: BackendSet) -> int:
        """The number of the same set of an earlier life, if one of its frontends still names it whole."""
        if not self._inherited:
            return 0
        for frontend, answer in plan.frontends.items():
            raw = self.maps.frontends.content.get(records.frontend_key(frontend))
            if raw is None or answer.backends != backends:
                continue
            service = lb.LbService.unpack(raw)
            if service.set_id in self._inherited and self.maps.is_whole(
                service, backends, self.backends.numbers
            ):
                self._inherited.discard(service.set_id)
                return service.set_id
        return 0

    def _fill_tables(self, changes: Iterable[Change]) -> None:
        for change in changes:
            try:
                for backends, table in change.tables.items():
                    self.fill(backends, table)
            except BpfError as error:
                change.failure = failure_of(WriteFault(str(error)))

    def _write_backends(self, changes: Iterable[Change]) -> None:
        wanted: dict[bytes, bytes] = {}
        askers: dict[bytes, list[Change]] = {}
        for change in going(changes):
            present = self.applied.get(change.owner, NOTHING).targets
            for target, flags in change.plan.targets.items():
                if present.get(target) != flags:
                    self.backends.refer(change.owner, target, flags)
                    key = self.backends.key(target)
                    wanted[key] = self.backends.value(target)
                    askers.setdefault(key, []).append(change)
        blame(self.maps.backends.put(wanted), askers)

    def _write_sets(self, changes: Iterable[Change]) -> None:
        slots: dict[bytes, bytes] = {}
        ranges: dict[bytes, bytes] = {}
        askers: dict[bytes, list[Change]] = {}
        for change in going(changes):
            for backends in change.fresh:
                number = change.sets[backends]
                mine = records.slot_entries(backends, number, self.backends.numbers)
                near = dict.fromkeys(records.range_keys(backends, number), _RANGE)
                slots.update(mine)
                ranges.update(near)
                asker = [change]
                askers.update((key, asker) for key in (*mine, *near))
        blame(self.maps.slots.put(slots), askers)
        blame(self.maps.ranges.put(ranges), askers)

    def _switch_tables(self, changes: Iterable[Change]) -> None:
        for change in changes:
            for backends, table in change.tables.items():
                if change.failure is None:
                    fault = self.maps.tables.switch(number_key(change.sets[backends]), table)
                    change.failure = failure_of(fault) if fault else None
                table.close()

    def _write_frontends(self, changes: Sequence[Change]) -> None:
        wanted: dict[bytes, bytes] = {}
        askers: dict[bytes, list[Change]] = {}
        for change in going(changes):
            for frontend, answer in change.plan.frontends.items():
                key = records.frontend_key(frontend)
                value = records.frontend_value(answer, change.sets.get(answer.backends, 0))
                present = self.maps.frontends.content.get(key)
                if value != present:
                    wanted[key], change.before[key], askers[key] = value, present, [change]
                    self._note_moves(change, key, value, answer.backends)
        self._carry_clients(changes, remove=False)
        heirs = {key: heir for change in going(changes) for key, heir in change.heirs.items()}
        choices = socketchoices.inherited(self._sockets, heirs)
        blame(self.maps.frontends.put(wanted), askers)
        socketchoices.keep(self._sockets, choices, [one.heirs for one in changes if one.failure is not None])

    def _note_moves(self, change: Change, key: bytes, value: bytes, backends: BackendSet) -> None:
        """Who may follow a frontend to its new set. Sockets may stay on a backend that is on its way out."""
        present = change.before[key]
        if (move := affinity.moves_on(present, value)) is not None:
            change.moves.setdefault(move[0], {})[move[1]] = self.backends.keys(backends.targets)

        def kept() -> frozenset[bytes]:
            flags = change.plan.targets
            leaving = (one for one in flags if flags[one] & lb.BACKEND_TERMINATING)
            return self.backends.keys((*backends.targets, *leaving))

        if (heir := socketchoices.heir_of(key, present, value, kept)) is not None:
            change.heirs[heir[0]] = heir[1]

    def _carry_clients(self, changes: Iterable[Change], *, remove: bool) -> None:
        moves: affinity.Moves = {}
        for change in going(changes):
            for old, new in change.moves.items():
                moves.setdefault(old, {}).update(new)
        if moves:
            affinity.carry(self._affinity, moves, remove=remove)

    def _undo(self, change: Change) -> None:
        """Puts back what an owner had, in reverse."""
        back = {key: value for key, value in change.before.items() if value is not None}
        self.maps.frontends.put(back)
        self.maps.frontends.drop([key for key, value in change.before.items() if value is None])
        for backends in change.fresh:
            self._drop_set(change.sets[backends], backends)
        for backends in change.adopted:
            self._inherited.add(change.sets[backends])
            self.sets.pop(change.sets[backends], None)
        present = self.applied.get(change.owner, NOTHING).targets
        self.backends.undo(change.owner, change.plan.targets, present)

    def _settle(self, change: Change) -> None:
        """Writes down what an owner has now, and lets go of what it had."""
        owner, plan = change.owner, change.plan
        present = self.applied.get(owner, NOTHING)
        frontends = frozenset(map(records.frontend_key, plan.frontends))
        gone = [key for key in present.frontends - frontends if self._owners.get(key) == owner]
        self.maps.frontends.drop(gone)
        for key in gone:
            del self._owners[key]
        if self._held & frontends:
            self._held -= frontends
            self._inherited = self._inherited if self._held else set()
            self._stale_due = self._clock() + GRACE_SECONDS
        left = {number: one for one, number in present.sets.items() if one not in change.sets}
        targets = tuple(target for target in present.targets if target not in plan.targets)
        if left or targets:
            self._leave(owner, left, targets)
        if frontends or plan.targets:
            self.applied[owner] = Applied(frontends, change.sets, dict(plan.targets))
        else:
            self.applied.pop(owner, None)

    def _leave(self, owner: str, sets: dict[int, BackendSet], targets: tuple[Target, ...]) -> None:
        """Lets go of sets and backends, after the grace."""
        self.backends.leave(owner, targets)
        self._leaving.append(Leaving(self._clock() + GRACE_SECONDS, sets, targets))

    def _drop_set(self, number: int, backends: BackendSet) -> None:
        self.maps.drop_set(number, backends)
        self.sets.pop(number, None)

    def _prune_rest(self) -> bool:
        """Sets and backends of an earlier life that nobody named."""
        removed = self.maps.keep_sets(self.maps.named_sets() | self.sets.keys())
        in_slots = {
            number_of(raw)
            for key, raw in self.maps.slots.content.items()
            if lb.LbSlotKey.unpack(key).set_id not in self.sets
        }
        return self.backends.keep_used(in_slots) or removed
