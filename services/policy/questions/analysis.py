"""Questions about the policies in force: why a flow passes or not, and whom selectors select.

What the engine resolved is immutable, so that judging runs in a thread while the engine goes on. A copy of
the engine is made for labels that no identity has, and only then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.pagination import page
from axoneme.lib.policy.model import Direction
from axoneme.lib.policy.outside import OutsideNames
from services.policy.questions.analysiswire import (
    direction_message,
    name_message,
    resolved_message,
    verdict_number,
)
from services.policy.questions.asked import Deciding, deciding, imagine, parties_of, question_of
from services.policy.questions.changeset import Candidate
from services.policy.questions.explain import DirectionExplanation, Question, Verdict, explain
from services.policy.questions.parties import Party
from services.policy.questions.replay import combined
from services.policy.state import PolicyState

_SHOWN_IDENTITIES: Final = 100
_SHOWN_POLICIES: Final = 20
Sides = Mapping[Direction, Deciding]


async def explain_flow(state: PolicyState, request: pb.ExplainFlowRequest) -> pb.ExplainFlowResponse:
    """The verdict on one flow. Raises InvalidArgument or NotFound for a party."""
    parties, revision = parties_of(state), state.revision
    question = question_of(request, parties, state)
    if not parties.imagined:
        sides = _sides(question, state)
        return await asyncio.to_thread(_explained, question, sides, parties.imagined, revision)
    candidate = Candidate(state.engine)
    return await asyncio.to_thread(_imagined, question, candidate, parties.imagined, revision)


def _sides(question: Question, state: PolicyState) -> Sides:
    return {direction: deciding(state.engine, question.subject(direction)) for direction in Direction}


def _imagined(
    question: Question, candidate: Candidate, imagined: Mapping[int, Party], revision: int
) -> pb.ExplainFlowResponse:
    imagine(candidate.engine, imagined)
    candidate.resolve(revision)
    sides = {each: deciding(candidate.engine, question.subject(each)) for each in Direction}
    return _explained(question, sides, imagined, revision)


def _explained(
    question: Question, sides: Sides, imagined: Mapping[int, Party], revision: int
) -> pb.ExplainFlowResponse:
    answer = pb.ExplainFlowResponse(revision=revision)
    verdicts = []
    for direction, side in sides.items():
        explanation = _explain_side(question, direction, side)
        if explanation is not None:
            verdicts.append(explanation.verdict)
            target = answer.ingress if direction is Direction.INGRESS else answer.egress
            target.CopyFrom(direction_message(explanation))
        policy, peer = side.policy, question.peer(direction)
        names = OutsideNames(() if policy is None else policy.selectors.values())
        _, labels = peer.seen_by(names, question.families)
        party = answer.source if direction is Direction.INGRESS else answer.destination
        party.CopyFrom(resolved_message(peer, labels, known=peer.identity not in imagined))
    answer.verdict = verdict_number(combined(verdicts))
    return answer


def _explain_side(question: Question, direction: Direction, side: Deciding) -> DirectionExplanation | None:
    if side.policy is None:
        if not side.fault:
            return None
        reason = f"the policy of this side cannot be computed: {side.fault}"
        return DirectionExplanation(direction=direction, verdict=Verdict.ERROR, reason=reason)
    return explain(side.policy, direction, question, fault=side.fault, dns_rules=side.dns_rules)


def list_selectors(state: PolicyState, request: pb.ListSelectorsRequest) -> pb.ListSelectorsResponse:
    """The selectors of all policies, by text."""
    chosen = [use for use in state.selector_uses() if request.filter in use.text]
    part, token = page(chosen, lambda use: use.text, request.page_size, request.page_token)
    selectors = [
        pb.SelectorUse(
            text=use.text,
            uses=use.uses,
            identity_count=len(use.identities),
            identities=sorted(use.identities)[:_SHOWN_IDENTITIES],
            policies=[name_message(key) for key in use.policies[:_SHOWN_POLICIES]],
        )
        for use in part
    ]
    return pb.ListSelectorsResponse(selectors=selectors, next_page_token=token, revision=state.revision)
