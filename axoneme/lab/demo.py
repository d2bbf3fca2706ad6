"""The demo: a story of real packets, told step by step.

Each command is printed and then run as a process of its own, as the reader would run it; what it printed is
shown and compared with what the story claims. A step that comes out otherwise ends the demo with its name.
The lab stays up, so that the story can be continued by hand.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lab import laboratory, readiness, state, topology
from axoneme.lab.errors import LabError
from axoneme.lab.progress import Progress
from axoneme.lab.state import LabState
from axoneme.lab.stories import CHAPTERS, POLICIES, URL, Act, Scene
from axoneme.lab.topology import Cluster

SETTLE_SECONDS = 10.0
COMMAND_SECONDS = 60.0
POLL_SECONDS = 0.1
PODS = ("frontend", "batch", "backend", "dns")


def tell(chapter: str, root: Path, progress: Progress) -> None:
    """Tells a chapter. Raises LabError naming the first step that did not come out as told."""
    lab = _lab(root, progress)
    cluster = lab.topology.clusters[0]
    for number, scene in enumerate(_scenes(chapter), start=1):
        print(f"\n{_bold(f'{number}. {scene.title}')}", flush=True)
        for act in scene.acts:
            _play(lab, cluster, act, f"step {number} ({scene.title})")
    print(_ending())


def _scenes(chapter: str) -> Iterator[Scene]:
    for name, scenes in CHAPTERS.items():
        if chapter in (name, "all"):
            yield from scenes()


def _lab(root: Path, progress: Progress) -> LabState:
    """The running lab without any policy, or a new one."""
    if not POLICIES.is_dir():
        raise LabError(f"the demo needs the source tree: there is no {POLICIES}")
    present = state.load(root)
    if present is None or not laboratory.running(present):
        progress.say("starting the lab")
        return laboratory.up(topology.from_flags(), root, progress)
    names = {pod.name for _, pod in present.topology.clusters[0].pods()}
    if present.topology.simulated or not names.issuperset(PODS):
        fault = "is simulated" if present.topology.simulated else f"has not the pods {', '.join(PODS)}"
        raise LabError(f"the running lab {fault}: `axoneme lab down` first, then again")
    progress.say("using the running lab")
    with progress.step("removing the policies of earlier runs"):
        _remove_policies(present, present.topology.clusters[0])
    return present


def _remove_policies(lab: LabState, cluster: Cluster) -> None:
    with readiness.connect(lab.files(cluster).context) as client:
        for policy in client.policy.ListPolicies(policy_pb2.ListPoliciesRequest()).policies:
            space, name = policy.namespace, policy.name
            request = policy_pb2.DeletePolicyRequest(kind=policy.kind, namespace=space, name=name)
            client.policy.DeletePolicy(request)
    free = policy_pb2.ENFORCEMENT_DEFAULT_ALLOW
    _await_kernel(lambda: all(one.ingress == one.egress == free for one in _endpoints(lab, cluster)))


def _play(lab: LabState, cluster: Cluster, act: Act, step: str) -> None:
    print(f"\n  {_bold('$ ' + shlex.join(act.words))}", flush=True)
    subject = act.changes_policy_of
    before = _generation(lab, cluster, subject) if subject else 0
    deadline = time.monotonic() + (SETTLE_SECONDS if act.settling else 0)
    while True:
        done = _run(act.words, lab.files(cluster).context)
        fault = _fault(act, done)
        if fault is None or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    for line in done.stdout.splitlines():
        print(f"  {line}")
    sys.stdout.flush()
    if fault is not None:
        raise LabError(f"{step} did not come out as told: `{shlex.join(act.words)}` {fault}")
    if subject:
        _await_kernel(lambda: _generation(lab, cluster, subject) != before)


def _run(words: Sequence[str], context: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "axoneme.cli.main", *words[1:]],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        # Without it each command would say that it uses the running lab.
        env={**os.environ, "AXONEME_CONTEXT": str(context)},
    )


def _fault(act: Act, done: subprocess.CompletedProcess[str]) -> str | None:
    if done.returncode != act.exit_status:
        return f"ended with status {done.returncode}, not {act.exit_status}"
    lines = [line.lower() for line in done.stdout.splitlines()]
    for group in act.texts:
        if not any(all(word.lower() in line for word in group) for line in lines):
            return f"printed no line with {' and '.join(group)}"
    return None


def _generation(lab: LabState, cluster: Cluster, pod: str) -> int:
    """Number of policy changes of a pod: it grows with the kernel's."""
    return next(one.policy_generation for one in _endpoints(lab, cluster) if one.pod_name == pod)


def _endpoints(lab: LabState, cluster: Cluster) -> list[node_pb2.Endpoint]:
    with readiness.connect(lab.files(cluster).context) as client:
        request = node_pb2.ListEndpointsRequest()
        answers = [client.node(node.name).ListEndpoints(request) for node in cluster.nodes]
        return [endpoint for answer in answers for endpoint in answer.endpoints]


def _await_kernel(changed: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not changed():
        if time.monotonic() > deadline:
            raise LabError(f"not in the kernel after {SETTLE_SECONDS:.0f} s: see `axoneme status`")
        time.sleep(POLL_SECONDS)


def _ending() -> str:
    tries: tuple[tuple[str, str], ...] = (
        ("axoneme status", "health of everything"),
        ("axoneme observe --follow", "flows as they happen"),
        (f"axoneme lab exec batch -- curl -sS --max-time 2 {URL}", "a packet that is dropped"),
        ("axoneme policy list", "the policies in force"),
        ("axoneme endpoint list --node node2", "what the shim of a node knows"),
        ('eval "$(axoneme lab env)"', "environment for hubble and grpcurl"),
        ("axoneme lab down", "remove everything"),
    )
    if shutil.which("axoneme") is None:
        tries = (
            (f'export PATH="{Path(sys.executable).parent}:$PATH"', "so that this shell finds axoneme"),
            *tries,
        )
    width = max(len(command) for command, _ in tries)
    lines = [f"  {command.ljust(width)}  {what}" for command, what in tries]
    return "\n".join(["", _bold("The lab stays up. Try:"), *lines])


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text
