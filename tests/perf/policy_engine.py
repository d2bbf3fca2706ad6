"""Policy resolution at size: 10,000 policies × 50,000 identities, and what one change costs.

    AXONEME_BENCH_SCALE=0.1 python -m tests.perf policy_engine

1,000 namespaces of 50 identities (10 applications) and 10 policies: each application lets in its neighbour,
the monitoring of every namespace and, in each hundredth, the entity cluster; out to DNS, to a database by a
named port and to a prefix with an exception. Single-threaded; the memory is what the engine adds to the
process.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.model import Action, Direction, NamedPort, PortBlock
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.inputs import PolicySettings
from services.policy.resolution.engine import Drained, PolicyEngine
from services.policy.rules import (
    L7,
    CidrPeer,
    EntityName,
    FqdnPeer,
    ParsedPolicy,
    Peers,
    PolicyKey,
    PortRule,
    Rule,
    RuleEntry,
)
from services.policy.scope import in_namespace
from tests.perf.result import Result

SCALE = float(os.environ.get("AXONEME_BENCH_SCALE", "1"))
NAMESPACES = max(2, int(1_000 * SCALE))
APPLICATIONS, VARIANTS, ROUNDS = 10, 5, 30
CLUSTER = "east"
FIRST = 1_000


def app(namespace: str, number: int) -> LabelSelector:
    """The pods of an application."""
    return LabelSelector.of(
        in_namespace(namespace), Requirement("any", "app", Operator.IN, (f"app{number}",))
    )


def labels_of(namespace: int, number: int, variant: object) -> LabelSet:
    """The labels of one identity."""
    own = [f"app=app{number}", f"variant=v{variant}"]
    name = f"ns{namespace}"
    return workload_labels(
        own, namespace=name, cluster=CLUSTER, namespace_labels={"team": f"t{namespace % 7}"}
    )


def identities() -> Iterator[tuple[int, LabelSet]]:
    """Every identity of the cluster."""
    number = FIRST
    for namespace in range(NAMESPACES):
        for index in range(APPLICATIONS * VARIANTS):
            yield number, labels_of(namespace, index % APPLICATIONS, index // APPLICATIONS)
            number += 1


def policy(namespace: int, number: int, port: int = 8080) -> ParsedPolicy:
    """The policy of one application."""
    name, path = f"ns{namespace}", "spec.ingress"
    tcp = (PortRule(ports=(PortBlock(6, port, 16),)),)
    dns = (
        PortRule(
            ports=(PortBlock(17, 53, 16),), l7=L7(parser="dns", dns=(FqdnPeer(text="*", pattern=True),))
        ),
    )
    entities = (EntityName.CLUSTER,) if (namespace * APPLICATIONS + number) % 100 == 0 else (EntityName.HOST,)
    sections: list[tuple[Direction, Peers, tuple[PortRule, ...]]] = [
        (Direction.INGRESS, Peers(selectors=(app(name, (number + 1) % APPLICATIONS),)), tcp),
        (Direction.INGRESS, Peers(selectors=(app("ns0", 0),)), tcp),
        (Direction.INGRESS, Peers(entities=entities), tcp),
        (Direction.EGRESS, Peers(selectors=(app("ns1", 1),)), dns),
        (Direction.EGRESS, Peers(selectors=(app(name, 2),)), (PortRule(ports=(NamedPort(6, "db"),)),)),
        (Direction.EGRESS, Peers(cidrs=(CidrPeer(cidr="10.0.0.0/8", excepts=("10.96.0.0/12",)),)), tcp),
    ]
    entries = tuple(
        RuleEntry(path=f"{path}[{index}]", direction=direction, action=Action.ALLOW, peers=peers, ports=ports)
        for index, (direction, peers, ports) in enumerate(sections)
    )
    rule = Rule(path="spec", subject=app(name, number), entries=entries, locks=frozenset(Direction))
    key = PolicyKey("CiliumNetworkPolicy", name, f"p{number}")
    return ParsedPolicy(key=key, labels=(), rules=(rule,), document={})


def policies() -> Iterator[ParsedPolicy]:
    """Every policy of the cluster."""
    return (policy(namespace, number) for namespace in range(NAMESPACES) for number in range(APPLICATIONS))


def resident_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Bench:
    """One engine, filled, and measured changes on it."""

    def __init__(self) -> None:
        self.engine = PolicyEngine(PolicySettings(cluster_name=CLUSTER))
        self.revision = 0

    def fill(self) -> dict[str, float]:
        """Seconds of each step from nothing to a resolved cluster."""
        known, rules = list(identities()), list(policies())
        steps: dict[str, Callable[[], object]] = {
            "add identities": lambda: deque(itertools.starmap(self.engine.put_identity, known), 0),
            "add policies": lambda: deque(map(self.engine.put_policy, rules), 0),
            "resolve": self.drain,
        }
        return {name: seconds(step) for name, step in steps.items()}

    def drain(self) -> Drained:
        """Resolve what changed."""
        self.revision += 1
        return self.engine.drain(self.revision)

    def identity(self, namespace: int, round_: int) -> float:
        """Milliseconds from a new label set to the changes of all subjects."""
        labels = labels_of(namespace, round_ % APPLICATIONS, f"new{round_}")
        return self.timed(lambda: self.engine.put_identity(900_000 + round_, labels))

    def without(self, round_: int) -> float:
        """Milliseconds for the same label set to go."""
        return self.timed(lambda: self.engine.remove_identity(900_000 + round_))

    def change(self, round_: int) -> float:
        """Milliseconds for another port in one policy."""
        changed = policy((round_ * 11) % NAMESPACES, round_ % APPLICATIONS, port=9_000 + round_)
        return self.timed(lambda: self.engine.put_policy(changed))

    def timed(self, act: Callable[[], None]) -> float:
        """Milliseconds for something and the drain after it."""
        begun = time.perf_counter()
        act()
        self.drain()
        return 1_000 * (time.perf_counter() - begun)


def seconds(act: Callable[[], object]) -> float:
    """How long something takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def run() -> Iterable[Result]:
    """The figures."""
    gc.collect()
    before, bench = resident_mib(), Bench()
    size = f"{NAMESPACES * APPLICATIONS:,} policies × {NAMESPACES * APPLICATIONS * VARIANTS:,} identities"
    steps = bench.fill()
    gc.collect()
    gc.freeze()
    yield Result(name=f"full resolve, {size}", unit="s", values=[sum(steps.values())])
    for name, taken in steps.items():
        yield Result(name=f"  of it: {name}", unit="s", values=[taken])
    yield Result(name="memory of the resolved cluster", unit="MiB", values=[resident_mib() - before])
    # Namespaces 0 and 1 hold what every policy names; they come last and by themselves.
    places = [2 + round_ * 7 % (NAMESPACES - 2) for round_ in range(ROUNDS)]
    news = [bench.identity(place, round_) for round_, place in enumerate(places)]
    yield Result(name="one new identity to all changes", unit="ms", values=news, goal="≤ 5")
    olds = [bench.without(round_) for round_ in range(ROUNDS)]
    yield Result(name="one identity less", unit="ms", values=olds)
    common = [bench.identity(0, APPLICATIONS * round_) for round_ in range(3)]
    yield Result(name="one new identity that every policy names", unit="ms", values=common)
    changed = [bench.change(round_) for round_ in range(ROUNDS)]
    yield Result(name="one policy changed", unit="ms", values=changed)
    forks = [seconds(bench.engine.fork) for _ in range(3)]
    yield Result(name="a copy for a dry run", unit="s", values=forks)
