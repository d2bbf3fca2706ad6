"""Whatever order things come in, and whatever came and went between, subjects end up with the same policies.

random case ─┬─ inputs and identities, then policies, one drain ──────────────> policies of subjects
             └─ everything shuffled, other things in between, many drains ──> the same
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from axoneme.lib.labels import Label, LabelSet
from services.policy.cases.testscene import Scene
from services.policy.inputs import CidrGroup, Service
from services.policy.resolution.engine import PolicyEngine
from tests.conftest import scaled
from tests.model.policycases_random import random_cases
from tests.model.policycheck import scene_of
from tests.model.test_policy_rules import VERDICTS

Step = Callable[[PolicyEngine], None]
FIRST_STRANGER = 50_000


def arrivals(scene: Scene) -> Iterator[Step]:
    """One step for everything in a scene."""
    engine, context = scene.engine, scene.engine.context
    for policy in engine.policies.values():
        yield lambda one, policy=policy: one.put_policy(policy)
    for number, labels in scene.world.labels.items():
        yield lambda one, number=number, labels=labels: one.put_identity(number, labels)
    for name, number in scene.world.numbers.items():
        ports = scene.case.endpoints[name].named_ports
        yield lambda one, number=number, name=name, ports=ports: one.put_named_ports(number, name, ports)
    for node in scene.world.nodes.values():
        yield lambda one, node=node: one.put_node(node)
    for service in context.services.values():
        yield lambda one, service=service: one.put_service(service)
    for group in context.cidr_groups.values():
        yield lambda one, group=group: one.put_cidr_group(group)
    for cloud in context.cloud_groups.values():
        yield lambda one, cloud=cloud: one.put_cloud_group(cloud)


def passers_by(scene: Scene, rng: random.Random) -> Iterator[tuple[Step, Step]]:
    """Things that come, and that go again or are replaced by the real ones; as pairs of steps."""
    context = scene.engine.context
    for index, labels in enumerate(scene.world.labels.values()):
        number = FIRST_STRANGER + index
        yield (
            lambda one, number=number, labels=labels: one.put_identity(number, labels),
            lambda one, number=number: one.remove_identity(number),
        )
    numbers = list(scene.world.labels)
    for number in numbers:
        other = scene.world.labels[rng.choice(numbers)]
        labels = scene.world.labels[number]
        yield (
            lambda one, number=number, other=other: one.put_identity(number, other),
            lambda one, number=number, labels=labels: one.put_identity(number, labels),
        )
    if numbers:
        yield (
            lambda one: one.put_named_ports(numbers[0], "passing", {(6, "web"): 4711}),
            lambda one: one.remove_named_ports(numbers[0], "passing"),
        )
    for policy in scene.engine.policies.values():
        yield (
            lambda one, policy=policy: one.remove_policy(policy.key),
            lambda one, policy=policy: one.put_policy(policy),
        )
    for service in context.services.values():
        bare = Service(namespace=service.namespace, name=service.name)
        yield (
            lambda one, bare=bare: one.put_service(bare),
            lambda one, service=service: one.put_service(service),
        )
        yield (
            lambda one, service=service: one.remove_service(service.namespace, service.name),
            lambda one, service=service: one.put_service(service),
        )
    for group in context.cidr_groups.values():
        empty = CidrGroup(key=group.key, labels={}, cidrs=("203.0.113.0/24", "2001:db8:113::/48"))
        yield (
            lambda one, empty=empty: one.put_cidr_group(empty),
            lambda one, group=group: one.put_cidr_group(group),
        )
    for node in scene.world.nodes.values():
        strange = LabelSet((*node.labels.labels, Label("node", "zone", "z")))
        yield (
            lambda one, node=node, strange=strange: one.put_node(type(node)(name=node.name, labels=strange)),
            lambda one, node=node: one.put_node(node),
        )


def shuffled(scene: Scene, rng: random.Random) -> PolicyEngine:
    """An engine to which everything came in another order."""
    engine = PolicyEngine(scene.engine.settings)
    steps = list(arrivals(scene))
    rng.shuffle(steps)
    for step in steps:
        step(engine)
        if rng.random() < 0.3:
            engine.drain(1)
    pairs = list(passers_by(scene, rng))
    rng.shuffle(pairs)
    for come, go in pairs:
        come(engine)
        if rng.random() < 0.7:
            engine.drain(1)
        go(engine)
        if rng.random() < 0.3:
            engine.drain(1)
    engine.drain(1)
    return engine


@pytest.mark.parametrize("block", range(2))
def test_the_order_of_arrival_does_not_matter(block: int) -> None:
    """Every subject has the policy that a fresh engine gives it."""
    for case in random_cases(50_000_000 + block * 100_000, scaled(40, 2_000), flows=0):
        scene, rng = scene_of(case), random.Random(case["id"])
        other = shuffled(scene, rng)
        assert other.identities == scene.engine.identities
        check(scene, other)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_order_of_arrival_does_not_matter_to_any_rule(name: str) -> None:
    """The same for the small cases of single rules, in a few orders each."""
    scene = scene_of(VERDICTS[name][0])
    for seed in range(scaled(4, 50)):
        check(scene, shuffled(scene, random.Random(seed)))


def check(scene: Scene, other: PolicyEngine) -> None:
    """Both have the same policies for every identity and node."""
    for number in other.identities:
        assert other.subject(number) == scene.engine.subject(number), (scene.case.name, number)
    for name in other.nodes:
        assert other.host(name) == scene.engine.host(name), (scene.case.name, name)
