"""WatchServices: a snapshot, a bookmark, then the change log as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib.errors import OutOfRange, RevisionCompacted
from axoneme.lib.kvstore.port import Store
from services.clustermesh.messages import service_message
from services.clustermesh.state import MeshState


async def watch_services(
    state: MeshState, store: Store, revision: int
) -> AsyncIterator[pb.WatchServicesResponse]:
    """Steps from a revision on, or from a snapshot (0).

    Raises RevisionCompacted when the log is shorter or an older backup of etcd was restored, OutOfRange for a
    revision that the store has not reached.
    """
    state.check_ready()
    restores = state.restores
    if revision < 0 or (revision > state.revision and revision > await state.catch_up(store)):
        raise OutOfRange(f"revision {revision} is ahead of the store; watch again from 0")
    position = revision
    if not position:
        position = state.revision
        for key in sorted(state.views):
            view = state.views.get(key)
            if view is not None:
                message = service_message(view, state.cluster)
                yield pb.WatchServicesResponse(revision=position, put=message)
        yield pb.WatchServicesResponse(revision=position, bookmark=True)
    while True:
        reached = state.revision
        for key in sorted(state.changes.since(position)):
            view = state.views.get(key)
            if view is None:
                yield pb.WatchServicesResponse(revision=reached, deleted=str(key))
            else:
                message = service_message(view, state.cluster)
                yield pb.WatchServicesResponse(revision=reached, put=message)
        position = max(position, reached)
        if not await state.beyond(position, restores):
            raise RevisionCompacted("an older backup of etcd was restored; watch again from 0")
