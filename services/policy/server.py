"""PolicyService: decode, call the domain, encode. No rule about policies lives here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib.errors import (
    FieldViolation,
    InvalidArgument,
    NotFound,
    NotReady,
)
from axoneme.lib.grpcserver import caller
from axoneme.lib.kvstore.port import ReadStore
from axoneme.lib.labels import LabelSet
from axoneme.lib.pagination import page
from axoneme.lib.policycodec import decode_subject, encode_change, subject_key, subject_number
from axoneme.lib.requests import RequestLog
from services.policy.cnp import parse_policies
from services.policy.fields import valid_namespace
from services.policy.identityread import read_identity
from services.policy.interest import AuthorisedStream
from services.policy.rules import ParsedPolicy, PolicyKey
from services.policy.state import PolicyState
from services.policy.store import PolicyStore, StoredPolicy, Written, encode
from services.policy.warnings import warnings_of
from services.policy.watch import watch_policies
from services.policy.wire import policy_message

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_NAMESPACE: Final = "default"
PARSE_SECONDS: Final = 10.0
SHOWN_SECONDS: Final = 2.0
DEFAULT_WAIT_SECONDS: Final = 1.0
MAX_WAIT_SECONDS: Final = 10.0


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """Serves one replica from its state; writes go to the store and come back by its watch."""

    def __init__(
        self, *, state: PolicyState, store: PolicyStore, kvstore: ReadStore, log: RequestLog
    ) -> None:
        self._state = state
        self._store = store
        self._kvstore = kvstore
        self._log = log

    async def ApplyPolicy(self, request: pb.ApplyPolicyRequest, context: Context) -> pb.ApplyPolicyResponse:
        """Store all policies of a text, or none."""
        self._require_ready()
        return await self._log.run(
            caller(context),
            "ApplyPolicy",
            request.request_id,
            lambda: self._apply(request),
            content=request.SerializeToString(deterministic=True),
        )

    async def DeletePolicy(
        self, request: pb.DeletePolicyRequest, context: Context
    ) -> pb.DeletePolicyResponse:
        """Delete one policy."""
        self._require_ready()
        return await self._log.run(
            caller(context),
            "DeletePolicy",
            request.request_id,
            lambda: self._delete(request),
            content=request.SerializeToString(deterministic=True),
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, _context: Context) -> pb.GetPolicyResponse:
        """Return one policy."""
        self._require_ready()
        key = _key(request.kind, request.namespace, request.name)
        stored = self._state.stored.get(key)
        if stored is None:
            raise NotFound(f"policy {key} does not exist")
        return pb.GetPolicyResponse(policy=policy_message(stored), revision=self._state.revision)

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, _context: Context
    ) -> pb.ListPoliciesResponse:
        """List policies, sorted by kind, namespace and name."""
        self._require_ready()
        chosen = [
            stored
            for stored in self._state.stored.values()
            if request.namespace in ("", stored.key.namespace) and request.filter in stored.key.name
        ]
        chosen.sort(key=lambda stored: str(stored.key))
        part, token = page(chosen, lambda stored: str(stored.key), request.page_size, request.page_token)
        return pb.ListPoliciesResponse(
            policies=[policy_message(stored) for stored in part],
            next_page_token=token,
            revision=self._state.revision,
        )

    async def WatchPolicies(
        self, request: pb.WatchPoliciesRequest, _context: Context
    ) -> AsyncIterator[pb.WatchPoliciesResponse]:
        """Stream policies, a bookmark, then changes."""
        self._require_ready()
        async for step in watch_policies(self._state, request.revision):
            yield step

    async def GetSubjectPolicy(
        self, request: pb.GetSubjectPolicyRequest, _context: Context
    ) -> pb.GetSubjectPolicyResponse:
        """Return the mapstate of a subject."""
        self._require_ready()
        key = decode_subject(request.subject)
        policy = self._state.engine.subject(subject_number(key))
        if policy is None:
            raise NotFound(f"identity {request.subject.identity} has no known labels, so no policy")
        return pb.GetSubjectPolicyResponse(policy=encode_change(key, policy), revision=self._state.revision)

    async def AwaitIdentity(
        self, request: pb.AwaitIdentityRequest, _context: Context
    ) -> pb.AwaitIdentityResponse:
        """Wait until the nodes that a number concerns have its entries."""
        self._require_ready()
        number = request.identity
        labels = LabelSet.parse(request.labels) if request.labels else None
        await read_identity(self._kvstore, self._state, number, labels)
        keys = {subject_key(subject) for subject in self._state.engine.affected_subjects(number)}
        host = self._state.host
        pending = await host.wait_acknowledged(host.table.revision, keys=keys, timeout=_timeout(request))
        return pb.AwaitIdentityResponse(acknowledged=not pending, pending_nodes=pending)

    async def SubscribeEndpointPolicies(  # type: ignore[override]  # reads and writes by its context
        self, _requests: object, context: Context
    ) -> None:
        """Stream mapstates to a node, for the subjects that live on it."""
        stream: Any = AuthorisedStream(
            context, may_see=self._state.occupancy.may_see, moved=self._state.moved
        )
        await self._state.host.serve(stream)

    async def _apply(self, request: pb.ApplyPolicyRequest) -> pb.ApplyPolicyResponse:
        policies = await _parse(request.text, request.namespace or DEFAULT_NAMESPACE)
        if request.expected_revision and len(policies) > 1:
            reason = "goes with one policy only; apply the policies one by one"
            raise InvalidArgument.of_field("expected_revision", reason)
        warnings = [warnings_of(policy, self._state.engine) for policy in policies]
        written, revision = await self._store.write(
            policies, expected_revision=request.expected_revision, dry=request.validate_only
        )
        if not request.validate_only:
            await self._show(revision, written)
        applied = [_applied(one, texts) for one, texts in zip(written, warnings, strict=True)]
        return pb.ApplyPolicyResponse(policies=applied, revision=revision)

    async def _delete(self, request: pb.DeletePolicyRequest) -> pb.DeletePolicyResponse:
        key = _key(request.kind, request.namespace, request.name)
        revision = await self._store.delete(
            key, expected_revision=request.expected_revision, dry=request.validate_only
        )
        if not request.validate_only:
            await self._state.wait_revision(revision, SHOWN_SECONDS)
        return pb.DeletePolicyResponse(revision=revision)

    async def _show(self, revision: int, written: list[Written]) -> None:
        """Let the watch catch up, so that the caller reads what it wrote."""
        if any(one.changed for one in written):
            await self._state.wait_revision(revision, SHOWN_SECONDS)

    def _require_ready(self) -> None:
        if not self._state.ready:
            raise NotReady("the policies were not read from the store yet")


async def _parse(text: str, namespace: str) -> list[ParsedPolicy]:
    if not valid_namespace(namespace):
        raise InvalidArgument.of_field("namespace", "use lower-case letters, digits and '-'")
    try:
        # In a thread: 256 KiB take a good part of a second, and streams must go on meanwhile.
        return await asyncio.wait_for(asyncio.to_thread(parse_policies, text, namespace), PARSE_SECONDS)
    except TimeoutError as error:
        raise InvalidArgument.of_field("text", f"takes longer than {PARSE_SECONDS} s to read") from error


def _applied(one: Written, warnings: list[str]) -> pb.AppliedPolicy:
    outcome = pb.AppliedPolicy.OUTCOME_UNCHANGED
    if one.changed:
        created = one.before is None
        outcome = pb.AppliedPolicy.OUTCOME_CREATED if created else pb.AppliedPolicy.OUTCOME_CONFIGURED
    stored = StoredPolicy(
        key=one.policy.key,
        document=encode(one.policy).decode(),
        revision=one.revision,
        generation=one.generation,
    )
    return pb.AppliedPolicy(policy=policy_message(stored), outcome=outcome, warnings=warnings)


def _key(kind: str, namespace: str, name: str) -> PolicyKey:
    missing = [
        field for field, text in (("kind", kind), ("namespace", namespace), ("name", name)) if not text
    ]
    bad = [field for field, text in (("kind", kind), ("namespace", namespace), ("name", name)) if "/" in text]
    if missing or bad:
        violations = [FieldViolation(field, "is empty; name the policy in full") for field in missing]
        violations += [FieldViolation(field, "holds a slash") for field in bad]
        raise InvalidArgument(f"{violations[0].field} {violations[0].description}", violations=violations)
    return PolicyKey(kind, namespace, name)


def _timeout(request: pb.AwaitIdentityRequest) -> float:
    if not request.HasField("timeout"):
        return DEFAULT_WAIT_SECONDS
    seconds = request.timeout.ToTimedelta().total_seconds()
    if seconds < 0:
        raise InvalidArgument.of_field("timeout", "is negative")
    return min(seconds, MAX_WAIT_SECONDS)
