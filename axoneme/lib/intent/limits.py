"""The numbers of intent streams that belong to the protocol and not to its timing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one publisher. The defaults are measured (docs/intent-streams.md); tests make them small."""

    batch_resources: int = 1_000
    batch_bytes: int = 1 << 20  # gRPC's default limit of a message is 4 MiB
    window: int = 4  # unacknowledged updates
    change_log: int = 10_000  # changes kept for resuming
    snapshot_pending: int = 1_000  # fewer pending keys never turn into a snapshot

    def prefers_snapshot(self, pending: int, visible: int) -> bool:
        """Tells whether so many pending keys cost more than sending all that the subscriber may see."""
        return pending > self.snapshot_pending and pending > visible // 2
