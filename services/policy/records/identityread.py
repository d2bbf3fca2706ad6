"""An identity that a node asks about before the watch brought it: read it from the store.

The labels in the request are checked against the store, never believed: a node must not be able to say
what another pod is.
"""

from __future__ import annotations

from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.kvstore.port import ReadStore
from axoneme.lib.labels import LabelSet
from services.policy.records.occupancy import IDENTITY_PREFIX, identity_number
from services.policy.state import PolicyState

ATTEMPTS = 20


async def read_identity(store: ReadStore, state: PolicyState, number: int, labels: LabelSet | None) -> None:
    """Make sure that the engine knows a number. Raises NotFound, and InvalidArgument for other labels."""
    if identities.is_reserved(number):
        return
    known = state.engine.labels(number)
    if known is None:
        known = await _from_store(store, state, number)
    if labels is not None and labels != known:
        raise InvalidArgument.of_field("labels", f"are not those of identity {number} in the store")


async def _from_store(store: ReadStore, state: PolicyState, number: int) -> LabelSet:
    for _ in range(ATTEMPTS):
        before = state.revision
        row = await store.get(f"{IDENTITY_PREFIX}{number}")
        known = state.engine.labels(number)
        if known is not None:
            return known
        if row is None or identity_number(row.key) is None:
            break
        # If the watch moved meanwhile it may have seen a deletion of what was read: read again.
        if state.revision == before:
            labels = LabelSet.from_key(row.value.decode(errors="replace"))
            state.learn_identity(number, labels)
            return labels
    raise NotFound(f"identity {number} is not in the store; allocate it first")
