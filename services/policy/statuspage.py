"""Where policies stand, a page at a time: the answer of GetPolicyStatus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.pagination import page
from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.questions.analysiswire import name_message
from services.policy.records.progress import NodeProgress
from services.policy.rules import ParsedPolicy, PolicyKey
from services.policy.state import PolicyState
from services.policy.status import MAX_PENDING, PolicyStatus, standing
from services.policy.store import StoredObject
from services.policy.warnings import traps_of


async def policy_status(state: PolicyState, request: pb.GetPolicyStatusRequest) -> pb.GetPolicyStatusResponse:
    """One page of policies, sorted by kind, namespace and name."""
    chosen = [one for one in state.stored.values() if _chosen(one.key, request)]
    chosen.sort(key=lambda one: str(one.key))
    part, token = page(chosen, lambda one: str(one.key), request.page_size, request.page_token)
    revision, progress = state.revision, state.progress() if part else {}
    statuses = []
    for one in part:
        statuses.append(_message(_status(one, state, progress)))
        await asyncio.sleep(0)  # a policy may select every identity, and a page may hold a thousand of those
    return pb.GetPolicyStatusResponse(policies=statuses, next_page_token=token, revision=revision)


def _chosen(key: PolicyKey, request: pb.GetPolicyStatusRequest) -> bool:
    wanted = (request.kind, request.namespace, request.name)
    return all(want in ("", have) for want, have in zip(wanted, key, strict=True))


def _status(stored: StoredObject, state: PolicyState, progress: Mapping[str, NodeProgress]) -> PolicyStatus:
    policy, engine = stored.parsed, state.engine
    if not isinstance(policy, ParsedPolicy):
        stays = stored.problem and stored.key in engine.policies
        problem = f"{stored.problem}; the version before it stays in force" if stays else stored.problem
        return PolicyStatus(key=stored.key, revision=stored.revision, problem=problem)
    subjects, hosts = engine.selected_subjects(policy), engine.selected_nodes(policy)
    expected, pending = standing(
        subjects, hosts, stored.revision, nodes_of=state.occupancy.nodes_of, progress=progress
    )
    return PolicyStatus(
        key=stored.key,
        revision=stored.revision,
        problem=_problem(policy, subjects, hosts, state),
        subjects=len(subjects),
        expected_nodes=expected,
        acknowledged_nodes=expected - len(pending),
        pending=pending[:MAX_PENDING],
        warnings=tuple(traps_of(policy, engine)),
        audit=policy.audit,
    )


def _problem(policy: ParsedPolicy, subjects: Iterable[int], hosts: Iterable[str], state: PolicyState) -> str:
    """Why a subject cannot be resolved because of this policy."""
    if not state.faults:
        return ""
    keys = (*map(subject_key, subjects), *map(host_key, hosts))
    if not any(key in state.faults for key in keys):
        return ""
    return "; ".join(map(str, state.engine.conflicts_of(policy)))


def _message(one: PolicyStatus) -> pb.PolicyStatus:
    return pb.PolicyStatus(
        policy=name_message(one.key),
        accepted=one.accepted,
        problem=one.problem,
        revision=one.revision,
        subjects=one.subjects,
        expected_nodes=one.expected_nodes,
        acknowledged_nodes=one.acknowledged_nodes,
        pending=[pb.NodeLag(node_name=name, reason=reason) for name, reason in one.pending],
        warnings=one.warnings,
        audit=one.audit,
    )
