"""The times of intent streams, in seconds; tests make them small."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of both ends (docs/intent-streams.md says why these)."""

    flush_seconds: float = 0.01  # least time between two deltas of one stream
    heartbeat_seconds: float = 30.0
    stall_seconds: float = 60.0  # no Ack for so long while updates are open ends the stream
    goodbye_seconds: float = 1.0  # what a subscriber gets to half-close after goodbye
    catch_up_seconds: float = 10.0  # a replica behind the subscriber sends it elsewhere after this time
    snapshot_slot_seconds: float = 2.0  # a slow snapshot gives its slot to the next one after this time
    reconnect_first_seconds: float = 0.2
    reconnect_limit_seconds: float = 5.0  # a service that is back is in use again within this time
    silence_seconds: float = 95.0  # three heartbeats missed: the subscriber reconnects
    connect_seconds: float = 15.0  # from dialling to the accepted Hello
