"""Redirects and rules in step, and identities on demand: the proxy's end of SyncRedirects. Pure.

    shim                                                proxy
     │ snapshot: what is redirected by which rules ───►  │  rules that only older redirects needed may go
     │ ◄─── ready, complete: all rules, and the port     │
     │ changed ───────────────────────────────────────►  │
     │ ◄─── ready: rules that changed since              │
     │ identities: the file has another revision ─────►  │  it is read, the kernel is brought after it
     │ ◄─── identities_applied                           │
     │ ◄─── identity_wanted          identity_given ──►  │

Only the newest session speaks for the shim. What one has not sent yet is merged: the last word on each
subject, the last revision. A new session is told everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from services.fqdn.rulebook import RuleBook
from services.fqdn.tables import Key


@dataclass(frozen=True, slots=True)
class Ready:
    """Rules that the proxy judges by; an empty digest: the subject has none any more."""

    digests: Mapping[str, bytes]
    complete: bool
    proxy_port: int


@dataclass(frozen=True, slots=True)
class Applied:
    """A revision of the identity file is in force."""

    revision: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A set of selectors without a number."""

    key: Key


Told = Ready | Applied | Wanted


@dataclass(slots=True, eq=False)
class RedirectSession:
    """One call of the shim; `wake` says that `take` has something, or that the session ended."""

    wake: Callable[[], None]
    begun: bool = False
    ended: bool = False
    complete: bool = False
    digests: dict[str, bytes] = field(default_factory=dict)
    port: int | None = None
    applied: int | None = None
    wanted: dict[Key, None] = field(default_factory=dict)

    def take(self, port: int) -> list[Told]:
        """Everything that is to be said now, in order."""
        told: list[Told] = []
        if not self.begun:
            return told
        if self.complete or self.digests or self.port != port:
            told.append(Ready(self.digests, self.complete, port))
            self.digests, self.complete, self.port = {}, False, port
        if self.applied is not None:
            told.append(Applied(self.applied))
            self.applied = None
        told += [Wanted(key) for key in self.wanted]
        self.wanted = {}
        return told


class RedirectSync:
    """What all sessions share."""

    def __init__(self, book: RuleBook, asked: Callable[[], Iterable[Key]] = tuple) -> None:
        self._book = book
        self._asked = asked
        self._session: RedirectSession | None = None
        self._applied = 0
        self.subjects: set[str] = set()
        """Subjects that the shim named: they live on this node."""

    @property
    def connected(self) -> bool:
        """Whether a shim has said what it redirects."""
        return self._session is not None and self._session.begun

    def open(self, wake: Callable[[], None]) -> RedirectSession:
        """A new session, which ends the one before it."""
        if self._session is not None:
            self._end(self._session)
        self._session = RedirectSession(wake)
        return self._session

    def close(self, session: RedirectSession) -> None:
        """A session is over; what the kernel redirects stays what it was."""
        session.ended = True
        if session is self._session:
            self._session = None

    # --- from the shim; a session that was replaced is not listened to

    def on_snapshot(self, session: RedirectSession, digests: Mapping[str, bytes]) -> bool:
        """Everything that is redirected; whether the session is still the newest."""
        if session is not self._session:
            return False
        self.subjects = set(digests)
        self._book.confirm_all(digests)
        session.begun, session.complete, session.digests = True, True, self._book.digests()
        session.wanted = dict.fromkeys(self._asked())
        if self._applied:
            session.applied = self._applied
        session.wake()
        return True

    def on_changed(self, session: RedirectSession, subject: str, digest: bytes) -> bool:
        """What is redirected for one subject."""
        if session is not self._session:
            return False
        self.subjects.add(subject)
        self._book.confirm(subject, digest)
        return True

    # --- from the rest of the process

    def rules_changed(self, subjects: Iterable[str]) -> None:
        """Rules of these are in force in the hot loop."""
        if self._session is not None and self._session.begun:
            digests = self._book.digests()
            self._session.digests.update((subject, digests.get(subject, b"")) for subject in subjects)
            self._session.wake()

    def applied(self, revision: int) -> None:
        """The kernel holds nothing under identities that this revision of the file lacks."""
        self._applied = revision
        if self._session is not None and self._session.begun:
            self._session.applied = revision
            self._session.wake()

    def want(self, keys: Iterable[Key]) -> None:
        """Sets that nobody foresaw."""
        if self._session is not None and self._session.begun:
            self._session.wanted.update(dict.fromkeys(keys))
            self._session.wake()

    def touch(self) -> None:
        """The port may be another one."""
        if self._session is not None:
            self._session.wake()

    def _end(self, session: RedirectSession) -> None:
        session.ended = True
        session.wake()
