"""`axoneme status`: asks every service of the context and every node of this machine.

It says in words what is wrong. Each part is asked by itself, so that one that hangs or refuses does not hide
the others. The exit code is 0 only when all is well.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import render
from axoneme.cli.causes import explain
from axoneme.cli.connection import connection_options, open_client
from axoneme.cli.hubble.goflags import GoCommand
from axoneme.cli.hubble.options import EVENT_OUTPUTS, endpoint_options
from axoneme.lib.errors import AxonemeError, InvalidArgument

if TYPE_CHECKING:
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.context import Context
    from axoneme.client.sync import Client

WAIT_SECONDS = 60.0
WAIT_STEP_SECONDS = 0.5
OK, DEGRADED, FAILED = "ok", "degraded", "failed"
SIMULATED = "simulated: no packets"

EPILOG = """\b
Examples:
  axoneme status                 the running lab, or the context of $AXONEME_CONTEXT
  axoneme status --wait          until all is well, at most 60 s
  axoneme status --verbose       also what the kernel of each node can do
  axoneme status -o json         for programs; exit code 1 when something is wrong
  axoneme status --relay         flows and nodes of the relay, as `hubble status` shows them
  axoneme status --relay --server localhost:4245 --tls=false -o dict"""


@dataclass(slots=True, kw_only=True)
class PartStatus:
    """One service or node: its state in a word, what it does in a sentence, what is wrong in sentences."""

    name: str
    state: str = OK
    detail: str = ""
    problems: list[str] = field(default_factory=list)
    data: Any = None

    def degrade(self, problem: str) -> None:
        """Adds a problem; the part still answers."""
        self.problems.append(problem)
        if self.state == OK:
            self.state = DEGRADED


@click.command(cls=GoCommand, epilog=EPILOG)
@click.option(
    "--wait", is_flag=False, flag_value=WAIT_SECONDS, default=0.0, type=float, metavar="[SECONDS]",
    help=f"Ask again until all is well [{WAIT_SECONDS:g} s when no time is given].",
)  # fmt: skip
@click.option("--verbose", is_flag=True, help="Also show what the kernel of each node can do.")
@click.option("--relay", is_flag=True, help="Only the relay (or --server), as `hubble status` shows it.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(EVENT_OUTPUTS),
    default=None,
    help="Form of the output: table or json; with --relay all.  [default: table; with --relay compact]",
)
@connection_options
@endpoint_options
def status(relay: bool, wait: float, verbose: bool, output: str | None, **options: Any) -> int:
    """Says in words what works and what does not."""
    if relay:
        from axoneme.cli.hubble.serverstatus import relay_status

        options["lab_cluster"] = options.pop("cluster")
        return relay_status({**options, "output": output or "compact"})
    if any(options[name] for name in ("server", "socket_path", "node")):
        raise InvalidArgument("--server, --socket and --node are for --relay; without it all parts are asked")
    if output not in (None, *render.OUTPUTS):
        raise InvalidArgument(f"-o {output} is for --relay; without it there are table and json")
    with open_client(options["context_file"], options["cluster"], options["timeout"]) as client:
        return _health(client, wait, verbose, output or "table")


def _health(client: Client, wait: float, verbose: bool, output: str) -> int:
    """Asks all parts, again until all is well or `wait` seconds are over."""
    parts = collect(client)
    deadline = time.monotonic() + wait
    while not _well(parts) and time.monotonic() < deadline:
        time.sleep(WAIT_STEP_SECONDS)
        parts = collect(client)
    _print(client, parts, output)
    if verbose and output != "json":
        click.echo("\n" + "\n".join(feature_lines(parts)))
    return 0 if _well(parts) else 1


def collect(client: Client) -> list[PartStatus]:
    """Asks all parts at the same time."""
    questions: list[tuple[str, Callable[[], PartStatus]]] = [
        ("identity", lambda: service_status(client, "identity")),
        ("policy", lambda: service_status(client, "policy")),
        ("relay", lambda: relay_part(client)),
    ]
    if client.context.clustermesh:  # a cluster may have no services
        questions.insert(2, ("clustermesh", lambda: service_status(client, "clustermesh")))
    questions += [
        (name, functools.partial(node_status, client, name)) for name in sorted(client.context.nodes)
    ]
    with ThreadPoolExecutor(max_workers=len(questions)) as pool:
        answers = [(name, pool.submit(question)) for name, question in questions]
        seconds = client.timeout_seconds
        return [_answer(name, future.result, seconds) for name, future in answers]


def service_status(client: Client, process: str) -> PartStatus:
    """Reachable and serving?"""
    targets = ", ".join(client.context.targets(process))
    part = PartStatus(name=process, detail=f"serving at {targets}")
    if not client.serving(process):
        part.degrade(
            "it answers but does not serve yet: it is starting, has not read its state, or is stopping"
        )
        part.detail = f"not serving at {targets}"
    return part


def relay_part(client: Client) -> PartStatus:
    """Like a service, and which nodes it has."""
    from axoneme.api.hubble.observer import observer_pb2

    part = service_status(client, "relay")
    answer = client.observer.ServerStatus(observer_pb2.ServerStatusRequest())
    part.data = answer
    judge_relay(part, answer)
    return part


def judge_relay(part: PartStatus, answer: observer_pb2.ServerStatusResponse) -> None:
    """What the relay's own figures mean."""
    connected_nodes, missing = answer.num_connected_nodes.value, answer.num_unavailable_nodes.value
    part.detail += f"; {connected_nodes} of {connected_nodes + missing} nodes"
    part.detail += f"; {answer.num_flows} of {answer.max_flows} flows kept"
    if missing:
        names = ", ".join(answer.unavailable_nodes) or f"{missing} nodes"
        part.degrade(f"it does not reach {names}: their flows are missing from every answer")
    elif not connected_nodes:
        part.degrade("it knows no node: no flows will be shown")


def node_status(client: Client, name: str) -> PartStatus:
    """What the node's shim says about itself."""
    from axoneme.api.node.v1 import node_pb2

    answer = client.node(name).GetNodeStatus(node_pb2.GetNodeStatusRequest())
    part = PartStatus(name=name, data=answer)
    judge_node(part, answer)
    return part


def judge_node(part: PartStatus, answer: node_pb2.GetNodeStatusResponse) -> None:
    """What a node's own figures mean."""
    synced = sum(stream.synced for stream in answer.streams)
    total = sum(answer.endpoints.values())
    counts = sorted(answer.endpoints.items())
    states = ", ".join(f"{count} {_state_word(state)}" for state, count in counts if count)
    words = [f"{synced} of {len(answer.streams)} streams in order"]
    words.append(f"{total} endpoint{'s' if total != 1 else ''}" + (f" ({states})" if states else ""))
    words += [f"{answer.lost_events} flow events lost"] if answer.lost_events else []
    words += [SIMULATED] if answer.simulated else []
    part.detail = "; ".join(words)
    for problem in answer.problems:  # the node says in words what its streams and endpoints lack
        part.degrade(problem)


def feature_lines(parts: list[PartStatus]) -> list[str]:
    """What the kernel of each node can do, and what it lacks with the reason."""
    lines = []
    for part in parts:
        features = sorted(getattr(part.data, "features", {}).items())
        if features:
            lines.append(f"{part.name}: " + ", ".join(f"{name} {value}" for name, value in features))
    return lines or ["no node has told what its kernel can do"]


def _answer(name: str, question: Callable[[], PartStatus], seconds: float) -> PartStatus:
    try:
        return question()
    except AxonemeError as error:
        return PartStatus(
            name=name, state=FAILED, detail="cannot be asked", problems=[explain(error, seconds)]
        )


def in_lab(context: Context) -> bool:
    """Whether the context is that of the lab on this machine."""
    from axoneme.client.context import find_lab_directory

    return bool(context.source) and find_lab_directory(os.environ) in Path(context.source).parents


def _well(parts: list[PartStatus]) -> bool:
    return all(part.state == OK for part in parts)


def _state_word(state: str) -> str:
    return state.removeprefix("ENDPOINT_STATE_").lower()


def _print(client: Client, parts: list[PartStatus], output: str) -> None:
    context = client.context
    simulated = context.simulated or any(getattr(part.data, "simulated", False) for part in parts)
    if output == "json":
        rows = [
            {
                "name": part.name,
                "state": part.state,
                "detail": part.detail,
                "problems": part.problems,
                "status": part.data,
            }
            for part in parts
        ]
        render.print_json(
            {"cluster": context.cluster, "ok": _well(parts), "simulated": simulated, "parts": rows}
        )
        return
    click.echo(f"cluster {context.cluster}" + (f" ({SIMULATED})" if simulated else ""))
    render.print_table(("part", "state", "detail"), [(part.name, part.state, part.detail) for part in parts])
    problems = [f"{part.name}: {problem}" for part in parts for problem in part.problems]
    if problems:
        click.echo("\n" + "\n".join(problems))
    if in_lab(context) and any(part.state == FAILED for part in parts):
        click.echo("\n`axoneme lab status` shows the lab's processes and where their logs are")
    sys.stdout.flush()
