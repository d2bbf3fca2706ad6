"""Redirects to the DNS proxy and the rules that it judges by, in step. Pure.

    proxy: rules ready (subject, digest) ─► lacks() ─► the shim may switch to a mapstate with these redirects
    shim: what is redirected now ─────────► changes() ─► the proxy may drop rules that only the old one needed

A redirect without a live proxy drops, so without a session everything may be switched. With one, redirects
come after their rules and go before them: a query that is redirected always finds the rules of its mapstate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

UNKNOWN_DIGEST: Final = bytes(32)
"""Told for a map of an earlier life of the shim: something is redirected, and nobody knows by which rules.
No rules have this digest, so the proxy drops none because of it."""

_Test: TypeAlias = Callable[[str, bytes], bool]


class RedirectOrder:
    """One node's side of SyncRedirects."""

    def __init__(self) -> None:
        self.connected = False
        self.proxy_port: int | None = None
        """Where the proxy of this session takes packets; None until it said so."""
        self._ready: dict[str, bytes] = {}
        self._told: dict[str, bytes] = {}
        self._refused: dict[str, bytes] = {}

    # --- the session

    def open(self, redirects: Mapping[str, bytes]) -> dict[str, bytes]:
        """A session begins: what the proxy is told first. It has no rules before it names them."""
        self.connected, self.proxy_port = True, None
        self._ready, self._told = {}, dict(redirects)
        return dict(redirects)

    def close(self) -> bool:
        """The session is over; True when somebody waited for rules, who need not any more."""
        self.connected, self.proxy_port = False, None
        self._ready, self._told = {}, {}
        return self._take_refused(lambda _, __: True)

    def hear(self, ready: Mapping[str, bytes], *, complete: bool, proxy_port: int) -> bool:
        """What the proxy judges by; True when somebody waited for it."""
        if not self.connected:
            return False
        if complete:
            self._ready = {}
        self._ready.update(ready)
        self._ready = {key: digest for key, digest in self._ready.items() if digest}
        self.proxy_port = proxy_port
        return self._take_refused(lambda key, digest: self._ready.get(key) == digest)

    # --- what the kernel redirects

    def lacks(self, key: str, digest: bytes) -> bool:
        """Whether a subject's rules are not those that redirects need; remembers that somebody waits."""
        if not self.connected or not digest or self._ready.get(key) == digest:
            self._refused.pop(key, None)
            return False
        self._refused[key] = digest
        return True

    def changes(self, redirects: Mapping[str, bytes]) -> dict[str, bytes]:
        """What the proxy has not been told of what is redirected now, by subject; empty: nothing is.

        Subjects of the node that are not redirected are among `redirects` too: the proxy hears early who
        lives here.
        """
        if not self.connected:
            return {}
        changed = {key: digest for key, digest in redirects.items() if self._told.get(key) != digest}
        changed.update((key, b"") for key in self._told if key not in redirects)
        self._told = dict(redirects)
        self._refused = {key: digest for key, digest in self._refused.items() if key in redirects}
        return changed

    def _take_refused(self, may_go: _Test) -> bool:
        going = [key for key, digest in self._refused.items() if may_go(key, digest)]
        for key in going:
            del self._refused[key]
        return bool(going)
