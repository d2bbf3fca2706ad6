"""WatchPolicies: a snapshot, a bookmark, then the change log as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import OutOfRange, RevisionCompacted
from services.policy.state import CHANGE_LOG, PolicyChange, PolicyState
from services.policy.wire import deleted_message, policy_message


async def watch_policies(state: PolicyState, revision: int) -> AsyncIterator[pb.WatchPoliciesResponse]:
    """Steps from a revision on, or from a snapshot (0). Raises RevisionCompacted when the log is shorter."""
    position = revision
    if revision > state.revision:
        raise OutOfRange(f"revision {revision} is ahead of the store, which is at {state.revision}")
    if revision == 0:
        position = state.revision
        for stored in sorted(state.stored.values(), key=lambda one: str(one.key)):
            yield pb.WatchPoliciesResponse(revision=stored.revision, put=policy_message(stored))
    _check(state, position)
    yield pb.WatchPoliciesResponse(revision=position, bookmark=True)
    while True:
        moved = state.moved()
        _check(state, position)
        upto = state.revision
        for change in [one for one in state.changes if position < one.revision <= upto]:
            yield _step(change)
        if upto == position:
            await moved
        else:
            position = upto
            moved.close()  # type: ignore[attr-defined]


def _check(state: PolicyState, position: int) -> None:
    floor = state.log_floor
    if len(state.changes) == CHANGE_LOG:
        floor = max(floor, state.changes[0].revision)
    if position < floor:
        raise RevisionCompacted(f"changes before revision {floor} are forgotten; start again with revision 0")


def _step(change: PolicyChange) -> pb.WatchPoliciesResponse:
    if change.stored is None:
        return pb.WatchPoliciesResponse(revision=change.revision, deleted=deleted_message(change.key))
    return pb.WatchPoliciesResponse(revision=change.revision, put=policy_message(change.stored))
