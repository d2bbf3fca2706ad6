"""A change of the stored objects before it is made: what contradicts, and a copy of the engine with it.

    objects ─refuse_conflicts─> fine, or InvalidArgument naming both rules
            ─Candidate────────> copy of the engine ─(any thread)─> resolved with the change

A copy shares nothing that changes with its original, so it may be changed and resolved in a thread. Pure.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from axoneme.lib.errors import FieldViolation, InvalidArgument, NotFound
from axoneme.lib.policy.model import Origin
from services.policy.commands.kinds import CIDR_GROUP, CLOUD_GROUP
from services.policy.inputs import CidrGroup, CloudGroup
from services.policy.reading.objects import ParsedObject
from services.policy.resolution.bind import BindContext
from services.policy.resolution.engine import Drained, PolicyEngine
from services.policy.rules import ParsedPolicy, PolicyKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Objects that come, and names that go; `replace_all` lets every policy go that does not come.

    Groups of addresses stay unless they are named: they are no policies.
    """

    objects: Sequence[ParsedObject] = ()
    deleted: Sequence[PolicyKey] = ()
    replace_all: bool = False

    @property
    def policies(self) -> list[ParsedPolicy]:
        """The policies that come."""
        return [one for one in self.objects if isinstance(one, ParsedPolicy)]

    def gone(self, engine: PolicyEngine) -> list[PolicyKey]:
        """The names that go. Raises NotFound, or InvalidArgument for a name that comes too."""
        given = {one.key for one in self.objects}
        for key in self.deleted:
            if key in given:
                raise InvalidArgument.of_field("deleted", f"names {key}, which the text gives too; keep one")
            if not _present(engine, key):
                raise NotFound(f"policy {key} does not exist")
        rest = [key for key in engine.policies if key not in given] if self.replace_all else []
        return list(dict.fromkeys((*self.deleted, *rest)))

    def put_on(self, engine: PolicyEngine, gone: Iterable[PolicyKey]) -> None:
        """Make the change on an engine, which is not drained."""
        for key in gone:
            remove_key(engine, key)
        for one in self.objects:
            put(engine, one)


def refuse_conflicts(engine: PolicyEngine, change: Change) -> None:
    """Raises InvalidArgument for policies that contradict each other or one that stays (R-48)."""
    gone = set(change.gone(engine))
    conflicts = engine.conflicts_of(*change.policies, context=_context(engine, change))
    found = [one for one in conflicts if _key(one.first) not in gone and _key(one.second) not in gone]
    if found:
        violations = [FieldViolation("text", str(one)) for one in found]
        message = f"the policies contradict each other: {violations[0].description}"
        raise InvalidArgument(message, reason="POLICY_CONFLICT", violations=violations)


def _key(origin: Origin) -> PolicyKey:
    return PolicyKey(origin.kind, origin.namespace, origin.name)


def _context(engine: PolicyEngine, change: Change) -> BindContext:
    """What the policies refer to after the change."""
    now = engine.context
    cidr_groups = {one.key: one for one in change.objects if isinstance(one, CidrGroup)}
    cloud_groups = {one.key: one for one in change.objects if isinstance(one, CloudGroup)}
    if not cidr_groups and not cloud_groups:
        return now
    return BindContext(
        settings=now.settings,
        services=now.services,
        cidr_groups={**now.cidr_groups, **cidr_groups},
        cloud_groups={**now.cloud_groups, **cloud_groups},
    )


class Candidate:
    """A copy of the engine for one question. Make it where the engine lives; `resolve` it anywhere."""

    def __init__(self, engine: PolicyEngine, change: Change | None = None) -> None:
        self.change = change or Change()
        self._gone = self.change.gone(engine)
        with _without_collection():
            self.engine = engine.fork()

    def resolve(self, revision: int) -> Drained:
        """Make the change on the copy and resolve it."""
        self.change.put_on(self.engine, self._gone)
        return self.engine.drain(revision)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """A copy makes a million containers at once, none of them garbage: looking for some doubles its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _present(engine: PolicyEngine, key: PolicyKey) -> bool:
    context = engine.context
    return key in engine.policies or key in context.cidr_groups or key in context.cloud_groups


def put(engine: PolicyEngine, one: ParsedObject) -> None:
    """Add or replace an object of any kind."""
    if isinstance(one, ParsedPolicy):
        engine.put_policy(one)
    elif isinstance(one, CidrGroup):
        engine.put_cidr_group(one)
    elif isinstance(one, CloudGroup):
        engine.put_cloud_group(one)


def remove_key(engine: PolicyEngine, key: PolicyKey) -> None:
    """Take away the object of a name, whatever its kind; what is not there changes nothing."""
    if key.kind == CIDR_GROUP:
        engine.remove_cidr_group(key)
    elif key.kind == CLOUD_GROUP:
        engine.remove_cloud_group(key)
    else:
        engine.remove_policy(key)
