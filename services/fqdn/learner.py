"""Brings answers into the kernel before they are released: the one writer of `axoneme_learned`.

    answer ─► cache ─► journal ─► every touched address: selectors of all its names ─► number ─► kernel ─► NOW
                                        └─ no number yet: the shim is asked, the answer is HELD

The lock is held for one answer, or for a slice of a longer walk: the hot loop never waits for a whole one. An
answer that says nothing new (the same addresses, and what is known lasts at least its TTL and half a second)
costs one look-up. Each lifetime is the TTL and a second for the way of the answer, so that a TTL of 0 leaves
time for one connection. A set that shrinks because one name of several expired is written when that name is
forgotten, at most EXPIRE_SECONDS late. (The module is long because all of it works under the one lock.)
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError, MapFullError
from axoneme.lib.dns.wire import Answer, Question
from services.fqdn.cache import MAX_KINDS, CachedAddress, CachedName, Limits, NameCache, Touched
from services.fqdn.model import Released, Ruling
from services.fqdn.pins import LearnedWrite, may_be_learned, short_address
from services.fqdn.tables import IdentityTable, Key

logger = logging.getLogger(__name__)

EXPIRE_SECONDS: Final = 0.25
SECOND_NS: Final = 1_000_000_000
GRACE_NS: Final = SECOND_NS
SLACK_NS: Final = SECOND_NS // 2
MAX_TTL: Final = 604_800
SLICE: Final = 256
MAX_HELD: Final = 16_384
MAX_WANTED: Final = 4_096
_ROOM: Final = 256
LOOKUP, REPORTED = 1, 2


def boottime_ns() -> int:
    """The clock of the kernel's expiry: it goes on while the machine sleeps, and no one sets it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LearnedMaps(Protocol):
    """What is asked of the node's maps; each may raise BpfError."""

    def identity_of(self, address: bytes) -> int: ...
    def write_learned(self, writes: list[LearnedWrite]) -> None: ...
    def delete_learned(self, keys: list[tuple[int, bytes]]) -> int: ...


class Journal(Protocol):
    """What outlives this process. Fails silently: it counts, and is repaired elsewhere."""

    def learned(
        self, endpoint_id: int, known: CachedName, addresses: Iterable[bytes], expiry_ns: int
    ) -> None: ...
    def forgot(self, endpoint_id: int, name: bytes) -> None: ...


@dataclass(slots=True)
class LearnerCounts:
    """Figures of the learning side."""

    learned: int = 0
    expired_names: int = 0
    held: int = 0
    barrier_timeouts: int = 0
    dropped: int = 0
    unforeseen: int = 0
    map_failures: int = 0


@dataclass(slots=True)
class _Held:
    ticket: int
    deadline: float
    endpoint_id: int
    addresses: tuple[bytes, ...]


@dataclass(slots=True, kw_only=True)
class LearnerSettings:
    """Times in seconds; `drop`: an answer whose identities did not come in time is not released."""

    min_ttl: int = 0
    barrier_seconds: float = 0.1
    drop: bool = False
    limits: Limits = field(default_factory=Limits)


class NameLearner:
    """`Learner` of the hot loop, and everything else that changes what is known."""

    def __init__(
        self,
        maps: LearnedMaps | None,
        settings: LearnerSettings,
        journal: Journal,
        *,
        clock_ns: Callable[[], int] = boottime_ns,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock = threading.Lock()
        self.cache = NameCache(settings.limits)
        self.counts = LearnerCounts()
        self.table = IdentityTable()
        self.table_unreadable = False  # then what the kernel holds stays as it is
        self.changed: set[tuple[int, bytes]] = set()
        self.wanted: deque[Key] = deque(maxlen=MAX_WANTED)
        self.on_wanted: Callable[[], None] = lambda: None
        self.maps = maps
        self.journal = journal
        self._settings = settings
        self._clock_ns = clock_ns
        self._wall = wall
        self._monotonic = monotonic
        self._held: deque[_Held] = deque()
        self._asked: set[Key] = set()
        self._refused: set[Key] = set()
        self._strangers: dict[tuple[int, bytes], LearnedWrite] = {}  # in the kernel, and of no name

    # --- the hot loop

    def learn(self, ticket: int, ruling: Ruling, question: Question, answer: Answer) -> Released:
        """See `model.Learner`."""
        endpoint_id, name = ruling.endpoint_id, question.name
        with self.lock:
            lasts = self._clock_ns() + self._lifetime_ns(answer.ttl)
            endpoint = self.cache.endpoints.get(endpoint_id)
            known = endpoint.names.get(name) if endpoint else None
            if known is not None and endpoint is not None:
                last = known.last.get(question.qtype)
                if last is not None and last[0] == answer.addresses:
                    known.looked_up = self._wall()
                    if lasts - last[1] <= SLACK_NS:
                        endpoint.names.move_to_end(name)
                        return Released.NOW
                    same = last[2] is self.table
                    if same and self._prolong(endpoint_id, known, question.qtype, answer, lasts):
                        return Released.NOW
            missing = self._take(endpoint_id, question, answer, LOOKUP, lasts)
            if missing is None:
                return self._late()
            if not missing:
                return Released.NOW
            return self._hold(ticket, endpoint_id, answer.addresses)

    def due(self, now: float) -> list[tuple[int, Released]]:
        """See `model.Learner`."""
        if not self._held:
            return []
        released: list[tuple[int, Released]] = []
        with self.lock:
            for _ in range(len(self._held)):
                held = self._held.popleft()
                verdict = self._release(held, now)
                if verdict is None:
                    self._held.append(held)
                else:
                    released.append((held.ticket, verdict))
        return released

    def number_of(self, endpoint_id: int, address: bytes) -> int:
        """The identity that an endpoint knows an address by, out of what it learned; 0 when it did not."""
        one = self.cache.address(endpoint_id, address)
        return one.number if one is not None and one.written_ns > self._clock_ns() else 0

    def _hold(self, ticket: int, endpoint_id: int, addresses: tuple[bytes, ...]) -> Released:
        self.counts.held += 1
        if len(self._held) >= MAX_HELD or not self._settings.barrier_seconds:
            self.counts.barrier_timeouts += 1
            return self._late()
        deadline = self._monotonic() + self._settings.barrier_seconds
        self._held.append(_Held(ticket, deadline, endpoint_id, addresses))
        return Released.HELD

    def _release(self, held: _Held, now: float) -> Released | None:
        """None while an answer has to wait on."""
        addresses = [self.cache.address(held.endpoint_id, short_address(one)) for one in held.addresses]
        missing, written = self._settle([one for one in addresses if one is not None])
        if not written:
            return self._late()
        if not missing:
            return Released.NOW
        if now < held.deadline and not missing <= self._refused:
            return None
        self.counts.barrier_timeouts += 1
        return self._late()

    def _late(self) -> Released:
        if self._settings.drop:
            self.counts.dropped += 1
            return Released.DROP
        return Released.NOW

    def _lifetime_ns(self, ttl: int) -> int:
        return min(max(ttl, self._settings.min_ttl), MAX_TTL) * SECOND_NS + GRACE_NS

    def _prolong(self, endpoint_id: int, known: CachedName, qtype: int, answer: Answer, lasts: int) -> bool:
        """The same answer as last time, which the kernel knew: only lifetimes move. False: learn it anew."""
        addresses = self._short(answer)
        known.ttl, known.source = answer.ttl, LOOKUP
        known.last[qtype] = answer.addresses, lasts, self.table
        self.counts.learned += len(addresses)
        touched = self.cache.prolong(endpoint_id, known, addresses, lasts)
        self.journal.learned(endpoint_id, known, addresses, lasts)
        late = [one for one in touched if one.expiry_ns - one.written_ns > SLACK_NS]
        if not late:
            return True
        missing, written = self._settle(late)
        if missing or not written:
            known.last.clear()
        return written and not missing

    def _short(self, answer: Answer) -> tuple[bytes, ...]:
        """As many of the addresses as are kept of one answer."""
        if len(answer.addresses) == 1 and len(answer.addresses[0]) == 4:
            return answer.addresses
        return tuple(map(short_address, answer.addresses[: self._settings.limits.ips_per_name]))

    def _take(
        self, endpoint_id: int, question: Question, answer: Answer, source: int, lasts: int
    ) -> set[Key] | None:
        """Into cache, journal and kernel: the sets without a number, or None when the kernel failed."""
        addresses = self._short(answer)
        known, touched = self.cache.learn(endpoint_id, question.name, addresses, lasts, self.table.matching)
        known.ttl, known.looked_up, known.source = answer.ttl, self._wall(), source
        if len(known.last) >= MAX_KINDS:
            known.last.clear()
        known.last[question.qtype] = answer.addresses, lasts, self.table
        self.counts.learned += len(addresses)
        self.journal.learned(endpoint_id, known, addresses, lasts)
        missing, written = self._settle(touched)
        if missing or not written or not known.addresses.keys() >= set(addresses):
            known.last.clear()
        return missing if written else None

    # --- into the kernel

    def _settle(self, touched: Touched) -> tuple[set[Key], bool]:
        """Has the kernel hold what the names of these addresses give; sets without a number, and success."""
        writes: list[tuple[CachedAddress, LearnedWrite]] = []
        gone: list[CachedAddress] = []
        missing: set[Key] = set()
        if self.table_unreadable:
            left = [one for one in touched if one.number and not one.names]
            self._estrange(
                LearnedWrite(one.endpoint_id, one.address, one.number, one.written_ns) for one in left
            )
            return missing, True
        try:
            for one in touched:
                self.changed.add((one.endpoint_id, one.address))
                if one.expiry_ns - one.written_ns <= SLACK_NS and one.settled == (self.table, one.union()):
                    continue
                number = self._number_for(one, missing)
                if not number:
                    if one.number:
                        gone.append(one)
                elif number != one.number or one.expiry_ns - one.written_ns > SLACK_NS:
                    writes.append((one, LearnedWrite(one.endpoint_id, one.address, number, one.expiry_ns)))
            self._delete(gone)
            if writes:
                self._write(writes)
        except BpfError as error:
            self.counts.map_failures += 1
            for one in touched:
                one.settled = None
            self._estrange(LearnedWrite(one.endpoint_id, one.address, one.number, 0) for one in gone)
            logger.warning("learned addresses not written", extra={log.ERROR: log.clip(error)})
            return missing, False
        if missing:
            self._ask(missing)
        return missing, True

    def _number_for(self, one: CachedAddress, missing: set[Key]) -> int:
        """The number that an address shall have; 0 for none."""
        one.settled = None
        if not one.sets or self.maps is None:
            return 0
        if not may_be_learned(self.maps.identity_of(one.address)):
            return 0
        names = one.union()
        prefix = self.table.prefix_of(one.address)
        number = self.table.number_of(prefix, names)
        if number is not None:
            one.settled = self.table, names
            return number
        missing.add((prefix, names))
        return self.table.best_number_of(prefix, names)

    def _write(self, writes: list[tuple[CachedAddress, LearnedWrite]]) -> None:
        assert self.maps is not None
        entries = list({(entry[0], entry[1]): entry for _, entry in writes}.values())
        try:
            self.maps.write_learned(entries)
        except MapFullError:
            self._make_room(writes[0][0].endpoint_id)
            self.maps.write_learned(entries)
        for one, entry in writes:
            self._strangers.pop((one.endpoint_id, one.address), None)
            one.number, one.written_ns = entry.identity, entry.expiry_ns

    def _delete(self, gone: list[CachedAddress]) -> None:
        if gone and self.maps is not None:
            self.maps.delete_learned([(one.endpoint_id, one.address) for one in gone])
        for one in gone:
            one.number = one.written_ns = 0
            one.settled = None

    def _make_room(self, endpoint_id: int) -> None:
        """The map is full: what expired goes first, then what the endpoint itself saw least lately."""
        touched, gone = self.cache.expire(self._clock_ns(), _ROOM)
        self.counts.expired_names += gone
        addresses = self.cache.endpoints[endpoint_id].addresses if not touched else {}
        for address in list(addresses)[: min(_ROOM, len(addresses) // 2)]:
            if address in addresses:
                touched += self.cache.forget_address(endpoint_id, address)
        self.changed.update((one.endpoint_id, one.address) for one in touched)
        self._delete([one for one in touched if one.number and not one.names])

    def _ask(self, missing: set[Key]) -> None:
        fresh = missing - self._asked
        if fresh and len(self._asked) < MAX_WANTED:
            self.counts.unforeseen += len(fresh)
            self._asked |= fresh
            self.wanted.extend(fresh)
            self.on_wanted()

    # --- from outside of the hot loop

    def report(self, endpoint_id: int, question: Question, answer: Answer, source: int = REPORTED) -> bool:
        """Learns an answer that somebody else saw; whether the kernel has its addresses."""
        with self.lock:
            lasts = self._clock_ns() + self._lifetime_ns(answer.ttl)
            return self._take(endpoint_id, question, answer, source, lasts) is not None

    def replace_table(self, table: IdentityTable) -> None:
        """Learns by another table from here on; `review` then brings the kernel after it."""
        with self.lock:
            self.table, self.table_unreadable = table, False
            self._asked.clear()
            self._refused.clear()

    def refuse(self, key: Key) -> None:
        """No number will come for a set: whoever waits for it need not."""
        with self.lock:
            self._refused.add(key)

    def asked(self) -> list[Key]:
        """Sets that have no number yet, to ask a new shim for."""
        with self.lock:
            return sorted(self._asked, key=lambda key: (key[0], sorted(key[1])))

    def review(self) -> Iterator[None]:
        """Walks through everything that is known, slice by slice, and settles it anew."""
        if self.table_unreadable:
            return
        for part in self.slices():
            with self.lock:
                for endpoint_id, name in part:
                    self._review(endpoint_id, name)
            yield
        with self.lock:
            self._end_strangers(lambda entry: not self.table.holds(entry.identity))

    def slices(self, endpoint_id: int = 0) -> Iterator[list[tuple[int, bytes]]]:
        """All names of now (of one endpoint), a slice at a time; the lock is not held between two."""
        for number in [endpoint_id] if endpoint_id else list(self.cache.endpoints):
            with self.lock:
                endpoint = self.cache.endpoints.get(number)
                names = list(endpoint.names) if endpoint else []
            for start in range(0, len(names), SLICE):
                yield [(number, name) for name in names[start : start + SLICE]]

    def _review(self, endpoint_id: int, name: bytes) -> None:
        known = self.cache.name(endpoint_id, name)
        if known is None:
            return
        self.cache.reselect(endpoint_id, known, self.table.matching(name))
        addresses = (self.cache.address(endpoint_id, one) for one in known.addresses)
        self._settle([one for one in addresses if one is not None])

    def expire(self) -> float:
        """Forgets a slice of what expired; seconds until the next call is worth while."""
        with self.lock:
            now = self._clock_ns()
            touched, gone = self.cache.expire(now, SLICE)
            self.counts.expired_names += gone
            self._settle(touched)
            self._end_strangers(lambda entry: entry.expiry_ns <= now)
            due = self.cache.next_due_ns()
        if due is None:
            return EXPIRE_SECONDS
        return min(max((due - now) / SECOND_NS, 0.0), EXPIRE_SECONDS)

    def forget(self, entries: Iterable[tuple[int, bytes]]) -> int:
        """Forgets names, in the kernel too; how many there were."""
        count = 0
        with self.lock:
            for endpoint_id, name in entries:
                if self.cache.name(endpoint_id, name) is not None:
                    count += 1
                    self._settle(self.cache.forget_name(endpoint_id, name))
                    self.journal.forgot(endpoint_id, name)
        return count

    def forget_endpoint(self, endpoint_id: int) -> None:
        """Forgets an endpoint that is no more, slice by slice."""
        for part in self.slices(endpoint_id):
            self.forget(part)

    def restore(self, endpoint_id: int, known: CachedName, addresses: dict[bytes, int]) -> None:
        """Puts back what the journal had, without writing: the kernel has it too."""
        with self.lock:
            for address, expiry_ns in addresses.items():
                kept, _ = self.cache.learn(
                    endpoint_id, known.name, (address,), expiry_ns, self.table.matching
                )
                kept.ttl, kept.looked_up, kept.source = known.ttl, known.looked_up, known.source

    def adopt(self, entries: Iterable[LearnedWrite]) -> None:
        """Takes over what the kernel holds since an earlier life; `review` then compares it.

        What is of no known name (its record was lost) stays until it expires or its identity goes.
        """
        with self.lock:
            for entry in entries:
                one = self.cache.address(entry.endpoint_id, entry.address)
                if one is None:
                    self._estrange((entry,))
                elif not one.number:
                    one.number, one.written_ns = entry.identity, entry.expiry_ns

    def _estrange(self, entries: Iterable[LearnedWrite]) -> None:
        self._strangers.update(((entry.endpoint_id, entry.address), entry) for entry in entries)

    def _end_strangers(self, over: Callable[[LearnedWrite], bool]) -> None:
        going = [key for key, entry in self._strangers.items() if over(entry)]
        if not going or self.maps is None:
            return
        try:
            self.maps.delete_learned(going)
        except BpfError as error:
            logger.warning("learned addresses not deleted", extra={log.ERROR: log.clip(error)})
            return
        for key in going:
            del self._strangers[key]

    def changes(self) -> set[tuple[int, bytes]]:
        """Addresses whose names may have changed since the last call."""
        with self.lock:
            found, self.changed = self.changed, set()
        return found
