"""Where a server listens: TCP addresses with certificates, unix sockets for root alone."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from axoneme.lib.roles import NameRole
from axoneme.lib.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Listener:
    """An address: `host:port` with certificates and trust domain, or `unix:///path` (0600, root is admin)."""

    address: str
    tls: TlsFiles | None = None
    trust_domain: str = ""
    name_roles: tuple[NameRole, ...] = ()

    @property
    def path(self) -> Path | None:
        """Path of a unix socket."""
        if not self.address.startswith("unix:"):
            return None
        return Path(self.address.removeprefix("unix:").replace("///", "/", 1))


def prepare_socket(path: Path) -> None:
    """Makes the folder (0700 when new) and removes a socket that a dead process left."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def restrict_sockets(listeners: Iterable[Listener]) -> None:
    """Unix sockets become 0600."""
    for listener in listeners:
        if listener.path is not None:
            listener.path.chmod(0o600)


def remove_sockets(listeners: Iterable[Listener]) -> None:
    """Unix sockets leave no file."""
    for listener in listeners:
        if listener.path is not None:
            listener.path.unlink(missing_ok=True)
