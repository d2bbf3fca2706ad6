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
from axoneme.lib.policycodec import decode_subject, encode_change, subject_number
from axoneme.lib.requests import RequestLog
from services.policy import statuspage
from services.policy.commands.kinds import KINDS, namespaced
from services.policy.documentdiff import changes_between
from services.policy.interest import AuthorisedStream
from services.policy.questions import analysis, dryrun
from services.policy.questions.changeset import Change, refuse_conflicts
from services.policy.reading.document import MAX_BYTES, Json
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.fields import valid_namespace
from services.policy.reading.objects import ParsedObject, parse_objects
from services.policy.records.identityread import read_identity
from services.policy.rules import PolicyKey
from services.policy.state import PolicyState
from services.policy.store import PolicyStore, StoredObject, Written, encode
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
        engine = self._state.engine
        host = request.subject.host_of_node
        policy = engine.host(host) if host else engine.subject(subject_number(key))
        if policy is None:
            why = f"node {host} has no host policy" if host else f"{key} has no known labels, so no policy"
            raise NotFound(why)
        return pb.GetSubjectPolicyResponse(policy=encode_change(key, policy), revision=self._state.revision)

    async def GetPolicyStatus(
        self, request: pb.GetPolicyStatusRequest, _context: Context
    ) -> pb.GetPolicyStatusResponse:
        """Say where policies stand."""
        self._require_ready()
        return await statuspage.policy_status(self._state, request)

    async def ListSelectors(
        self, request: pb.ListSelectorsRequest, _context: Context
    ) -> pb.ListSelectorsResponse:
        """List the selectors of all policies."""
        self._require_ready()
        return analysis.list_selectors(self._state, request)

    async def ExplainFlow(self, request: pb.ExplainFlowRequest, _context: Context) -> pb.ExplainFlowResponse:
        """Explain the verdict on one flow."""
        self._require_ready()
        return await analysis.explain_flow(self._state, request)

    async def DiffPolicies(
        self, request: pb.DiffPoliciesRequest, _context: Context
    ) -> AsyncIterator[pb.DiffPoliciesResponse]:
        """Stream the verdicts that a change would change."""
        self._require_ready()
        change = dryrun.change_of(await _objects_of(request.change), request.change)
        async for step in dryrun.diff_policies(self._state, change, request.limit):
            yield step

    async def ReplayFlows(self, request: pb.ReplayFlowsRequest, _context: Context) -> pb.ReplayFlowsResponse:
        """Judge recorded flows before and after a change."""
        self._require_ready()
        change = dryrun.change_of(await _objects_of(request.change), request.change)
        return await dryrun.replay_flows(self._state, change, request.flows)

    async def AwaitIdentity(
        self, request: pb.AwaitIdentityRequest, _context: Context
    ) -> pb.AwaitIdentityResponse:
        """Wait until the nodes that a number concerns have its entries."""
        self._require_ready()
        number = request.identity
        labels = LabelSet.parse(request.labels) if request.labels else None
        await read_identity(self._kvstore, self._state, number, labels)
        keys = self._state.engine.affected_subjects(number)
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

    async def SubscribeDnsRules(  # type: ignore[override]  # reads and writes by its context
        self, _requests: object, context: Context
    ) -> None:
        """Stream DNS rules to a node's proxy, for the subjects that live on it."""
        stream: Any = AuthorisedStream(
            context,
            request=pb.SubscribeDnsRulesRequest,
            may_see=self._state.occupancy.may_see,
            moved=self._state.moved,
        )
        await self._state.dns_host.serve(stream)

    async def _apply(self, request: pb.ApplyPolicyRequest) -> pb.ApplyPolicyResponse:
        namespace = request.namespace or DEFAULT_NAMESPACE
        objects = await _parse(request.text, namespace)
        if request.only_namespace:
            _require_namespace(objects, namespace)
        if request.expected_revision and len(objects) > 1:
            reason = "goes with one policy only; apply the policies one by one"
            raise InvalidArgument.of_field("expected_revision", reason)
        change = Change(objects=objects)
        refuse_conflicts(self._state.engine, change)
        await asyncio.sleep(0)  # either may take a tenth of a second for a policy of everybody
        texts = dryrun.warnings_of(change, self._state.engine)
        warnings = {one.key: found for one, found in zip(change.policies, texts, strict=True)}
        written, revision = await self._store.write(
            objects, expected_revision=request.expected_revision, dry=request.validate_only
        )
        if not request.validate_only:
            await self._show(revision, written)
        applied = [_applied(one, warnings.get(one.parsed.key, [])) for one in written]
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


async def _parse(text: str, namespace: str) -> list[ParsedObject]:
    if not valid_namespace(namespace):
        raise InvalidArgument.of_field("namespace", "use lower-case letters, digits and '-'")
    try:
        # In a thread: 256 KiB take a good part of a second, and streams must go on meanwhile.
        return await asyncio.wait_for(asyncio.to_thread(parse_objects, text, namespace), PARSE_SECONDS)
    except TimeoutError as error:
        raise InvalidArgument.of_field("text", f"takes longer than {PARSE_SECONDS} s to read") from error


async def _objects_of(change: pb.PolicyChangeSet) -> list[ParsedObject]:
    """The objects of a change that is only tried; an empty text is none."""
    if len(change.text.encode()) > MAX_BYTES:
        raise InvalidArgument.of_field("change.text", f"is longer than {MAX_BYTES} bytes; split it")
    if not change.text.strip():
        return []
    return await _parse(change.text, change.namespace or DEFAULT_NAMESPACE)


def _require_namespace(objects: list[ParsedObject], namespace: str) -> None:
    others = [one.key for one in objects if one.key.namespace not in ("", namespace)]
    if others:
        violations = [
            FieldViolation("text", f"{key} is in namespace {key.namespace}, not {namespace}")
            for key in others
        ]
        message = f"{violations[0].description}; leave the namespace option out, or change the object"
        raise InvalidPolicy(message, violations=violations)


def _applied(one: Written, warnings: list[str]) -> pb.AppliedPolicy:
    outcome, changes = pb.AppliedPolicy.OUTCOME_UNCHANGED, []
    if one.changed and one.before is None:
        outcome = pb.AppliedPolicy.OUTCOME_CREATED
    elif one.changed:
        outcome = pb.AppliedPolicy.OUTCOME_CONFIGURED
        changes = changes_between(_document(one.before), one.parsed.document)
    stored = StoredObject(
        key=one.parsed.key,
        document=encode(one.parsed).decode(),
        revision=one.revision,
        generation=one.generation,
    )
    return pb.AppliedPolicy(
        policy=policy_message(stored), outcome=outcome, warnings=warnings, changes=changes
    )


def _document(stored: StoredObject | None) -> Json:
    """The object as it was stored; nothing when that cannot be read."""
    return None if stored is None or stored.parsed is None else stored.parsed.document


def _key(kind: str, namespace: str, name: str) -> PolicyKey:
    if namespace and kind in KINDS and not namespaced(kind):
        raise InvalidArgument.of_field("namespace", f"is {namespace[:63]!r}, but a {kind} has none")
    fields = {"kind": kind, "namespace": namespace, "name": name}
    optional = () if namespaced(kind) else ("namespace",)
    missing = [field for field, text in fields.items() if not text and field not in optional]
    bad = [field for field, text in fields.items() if "/" in text]
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
