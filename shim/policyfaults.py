"""Subjects whose policy is not in force: why, when each is tried again, and what of it was told.

A subject can fail for some of its holders only: those whose named ports have other numbers than the rest's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Failure
from shim.mapstates import Ports
from shim.reconciler import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS


@dataclass(slots=True)
class _Retry:
    delay_seconds: float
    due: float


class PolicyFaults:
    """Failures by subject; 100 ms after the first one it is tried again, doubling to 60 s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.failures: dict[str, Failure] = {}
        self._clock = clock
        self._faults: dict[tuple[str, Ports], Failure] = {}
        self._retries: dict[str, _Retry] = {}
        self._told: Mapping[str, Failure] = {}

    def of(self, key: str, ports: Ports) -> Failure | None:
        """Why holders with these ports are not judged by the subject's policy."""
        return self._faults.get((key, ports))

    def note(self, key: str, ports: Ports, failure: Failure) -> None:
        """What a try came to."""
        self._faults[(key, ports)] = failure

    def note_also(self, key: str, ports: Ports, failure: Failure) -> None:
        """As `note`, unless there is a failure already."""
        self._faults.setdefault((key, ports), failure)

    def clear(self, key: str, ports: Ports) -> None:
        """Before another try."""
        self._faults.pop((key, ports), None)

    def forget(self, key: str) -> None:
        """The subject is gone."""
        self.failures.pop(key, None)
        self._retries.pop(key, None)
        self._faults = {known: failure for known, failure in self._faults.items() if known[0] != key}

    def waiting(self) -> Collection[str]:
        """Subjects that are tried again."""
        return self._retries.keys()

    def is_due(self) -> bool:
        """Whether the time of one has come."""
        now = self._clock()
        return any(retry.due <= now for retry in self._retries.values())

    def tell(self) -> dict[str, Failure]:
        """The failures of this moment, which count as told from now on."""
        told = dict(self.failures)
        self._told = told
        return told

    def changed(self) -> bool:
        """Whether failures are others than were last told."""
        return self.failures != self._told

    def settle(self, living: Iterable[tuple[str, Ports]], keys: Collection[str]) -> None:
        """After a try of subjects `keys`: faults of holders that are gone go, the next tries are set.

        `living` are the subjects and ports of all holders; the first one with a failure gives the subject's.
        """
        self.failures = {}
        kept = {}
        for key, ports in living:
            if (failure := self._faults.get((key, ports))) is not None:
                kept[(key, ports)] = failure
                self.failures.setdefault(key, failure)
        self._faults = kept
        for key in keys | self._retries.keys():
            self._schedule(key, failed=key in self.failures)

    def _schedule(self, key: str, *, failed: bool) -> None:
        if not failed:
            self._retries.pop(key, None)
            return
        known, now = self._retries.get(key), self._clock()
        if known is None:
            self._retries[key] = _Retry(FIRST_RETRY_SECONDS, now + FIRST_RETRY_SECONDS)
        elif known.due <= now:
            delay = min(known.delay_seconds * 2, LAST_RETRY_SECONDS)
            self._retries[key] = _Retry(delay, now + delay)


def failure_of(error: AxonemeError | BpfError | KeyError) -> Failure:
    """What a policy that could not be applied is reported with."""
    if isinstance(error, AxonemeError):
        return Failure(error.code, error.reason, error.message)
    if isinstance(error, KeyError):
        return Failure(
            "INVALID_ARGUMENT", "SELECTOR_UNDEFINED", f"a rule refers to selector {error}, not defined"
        )
    return Failure("UNAVAILABLE", "MAP_WRITE_FAILED", str(error))
