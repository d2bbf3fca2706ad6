"""Errors of BPF calls: each names the operation, what it was done to, and the kernel's errno."""

from __future__ import annotations

import errno
import os

# A full hash map answers E2BIG, a full LPM trie ENOSPC: the same thing to the caller.
_FULL = frozenset({errno.E2BIG, errno.ENOSPC})


class BpfError(OSError):
    """A refused bpf(2) call; `operation`, `subject` (map, program, path) and `key` say which."""

    def __init__(self, code: int, operation: str, subject: str, key: bytes | None = None) -> None:
        self.operation = operation
        self.subject = subject
        self.key = key
        shown = f" key {key.hex()}" if key is not None else ""
        super().__init__(code, f"{operation} {subject}{shown}: {os.strerror(code)}")


class MapFullError(BpfError):
    """The map holds `max_entries` entries already."""


class VerifierError(BpfError):
    """The kernel refused a program; the message ends with the last two lines of the verifier's log."""

    def __init__(self, code: int, subject: str, log: str) -> None:
        super().__init__(code, "load", subject)
        self.log = log
        lines = [line for line in log.splitlines() if line.strip()]
        self.last_lines = tuple(lines[-2:])

    def __str__(self) -> str:
        return f"{super().__str__()}: {' | '.join(self.last_lines)}" if self.last_lines else super().__str__()


class LibraryMissingError(RuntimeError):
    """libbpf is not installed; the message says what to install."""


def map_error(code: int, operation: str, subject: str, key: bytes | None = None) -> BpfError:
    """The error for `code`: MapFullError when an update found the map full, else BpfError."""
    kind = MapFullError if operation.startswith("update") and code in _FULL else BpfError
    return kind(code, operation, subject, key)
