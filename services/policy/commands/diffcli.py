"""`axoneme policy diff`: which verdicts, or which recorded flows, a change of the policies would change."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json
from axoneme.lib.errors import AxonemeError, InvalidArgument
from services.policy.commands.clifaults import print_faults
from services.policy.commands.policyview import AUTH_MODES, DIRECTIONS, VERDICTS, ports_text, rule_text

if TYPE_CHECKING:
    from axoneme.api.hubble.observer import observer_pb2
    from axoneme.api.policy.v1 import policy_pb2 as pb
    from axoneme.client import Client

BATCH = 2000
LISTED = 200
REPLAY_SECONDS = 60.0
"""The service resolves a copy of the whole cluster for each batch."""
CHANGED, ERROR = 1, 2


def _exit_codes(command: Callable[..., bool]) -> Callable[..., None]:
    """0 when nothing changes, 1 when something does; errors, which end with 1 elsewhere, end with 2."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            changed = command(*arguments, **options)
        except AxonemeError as error:
            from axoneme.cli.main import describe

            click.echo(f"Error: {describe(error)}", err=True)
            raise click.exceptions.Exit(ERROR) from error
        except click.exceptions.Exit as error:
            raise click.exceptions.Exit(ERROR) from error
        if changed:
            raise click.exceptions.Exit(CHANGED)

    return run


@click.command()
@click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE", help="New or changed policies, - is stdin."
)
@click.option("--replace", is_flag=True, help="The files are all policies there will be.")
@click.option("--delete", "deleted", multiple=True, metavar="[KIND/[NAMESPACE/]]NAME", help="Policy to go.")
@click.option("-n", "--namespace", default="", metavar="NAME", help="Namespace of what names none [default].")
@click.option("--flows", metavar="FILE", help="Judge these recorded flows (observe -o jsonpb), - is stdin.")
@click.option("--since", metavar="TIME", help="Judge the flows that the relay has from a time on: 1h, 30m.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Rows at most."
)
@output_option
@_exit_codes
@connected
def diff(
    client: Client,
    files: tuple[str, ...],
    replace: bool,
    deleted: tuple[str, ...],
    namespace: str,
    flows: str | None,
    since: str | None,
    limit: int,
    output: str,
) -> bool:
    """Show what a change of the policies would change, and store nothing.

    Exit code 0: nothing changes; 1: something does; 2 and above: an error.

    \b
    Examples:
      axoneme policy diff -f new.yaml
      axoneme policy diff --delete cnp/default/allow-frontend
      axoneme policy diff -f all.yaml --replace --flows flows.json
      axoneme policy diff -f new.yaml --since 1h
    """
    if not files and not deleted and not replace:
        raise click.UsageError("name policies with -f, or --delete one")
    if flows is not None and since is not None:
        raise click.UsageError("--flows and --since exclude each other")
    if [*files, flows].count("-") > 1:
        raise click.UsageError("standard input can be read once only")
    change = _change_set(files, replace, deleted, namespace)
    if flows is None and since is None:
        return _verdicts(client, change, limit, output)
    return _replay(client, change, _recording(client, flows, since), limit, output)


def _change_set(
    files: tuple[str, ...], replace: bool, deleted: tuple[str, ...], namespace: str
) -> pb.PolicyChangeSet:
    from axoneme.api.policy.v1 import policy_pb2
    from services.policy.cli import parse_reference, read_text
    from services.policy.reading.objects import parse_objects

    texts = []
    for filename in files:
        name, text = read_text(filename)
        # The service sees one text; here faults still have the right file and line.
        with print_faults(name):
            parse_objects(text, namespace or "default")
        texts.append(text)
    change = policy_pb2.PolicyChangeSet(text="\n---\n".join(texts), namespace=namespace, replace_all=replace)
    for reference in deleted:
        kind, space, name = parse_reference(reference, namespace)
        change.deleted.add(kind=kind, namespace=space, name=name)
    return change


# --- verdicts


def _verdicts(client: Client, change: pb.PolicyChangeSet, limit: int, output: str) -> bool:
    from axoneme.api.policy.v1 import policy_pb2

    request = policy_pb2.DiffPoliciesRequest(change=change, limit=limit)
    steps = list(client.policy.DiffPolicies(request))
    totals = steps[-1].totals
    changes = [step.change for step in steps if step.WhichOneof("kind") == "change"]
    if output == "json":
        print_json({"changes": changes, "totals": totals})
        return bool(totals.changes)
    for subject, group in itertools.groupby(changes, key=lambda one: one.subject):
        rows = list(group)
        click.echo(f"identity {subject} ({', '.join(rows[0].subject_labels)})")
        for one in rows:
            click.echo(f"  {_verdict_line(one)}")
    if totals.changes > len(changes):
        click.echo(f"… {totals.changes - len(changes)} more; see --limit")
    least = "at least " if totals.incomplete else ""
    click.echo(f"{least}{totals.changes} verdicts of {least}{totals.subjects} subjects would change")
    for warning in totals.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return bool(totals.changes)


def _verdict_line(one: pb.VerdictChange) -> str:
    labels = f" ({', '.join(one.peer_labels)})" if one.peer_labels else ""
    if one.peer or one.prefix:
        peer = f"{one.prefix or f'identity {one.peer}'}{labels}"
    else:
        peer = ", ".join(one.peer_labels) or "every other peer"
    without = f" (not {', '.join(map(ports_text, one.without))})" if one.without else ""
    rules = "; ".join(map(rule_text, one.rules))
    because = f"  by {rules}" if rules else ""
    before = _verdict_text(one.before, one.before_parser, one.before_auth)
    after = _verdict_text(one.after, one.after_parser, one.after_auth)
    ports = f"{ports_text(one.ports)}{without}"
    return f"{DIRECTIONS.get(one.direction, '?')} {peer} {ports}: {before} -> {after}{because}"


def _verdict_text(verdict: int, parser: str, auth: int) -> str:
    """`allow`, `redirect (dns)`, `allow (authentication required)`."""
    notes = [parser] if parser else []
    notes += [f"authentication {AUTH_MODES[auth]}"] if auth in AUTH_MODES else []
    word = VERDICTS.get(verdict, "?")
    return f"{word} ({', '.join(notes)})" if notes else word


# --- recorded flows


def _recording(client: Client, flows: str | None, since: str | None) -> Any:
    from services.policy.questions.recordedflows import record

    if flows is not None:
        return record(_from_file(flows))
    from axoneme.lib.flows.request import Selectors, make_request

    request = make_request(Selectors(since=since), [], [], now_ns=time.time_ns())
    return record(client.observer.GetFlows(request))


def _from_file(path: str) -> Iterator[observer_pb2.GetFlowsResponse]:
    from axoneme.cli.flowprinter_json import parse_response

    try:
        with (
            click.open_file(path, encoding="utf-8")
            if path == "-"
            else Path(path).open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parsed(parse_response, line, path, number)
    except OSError as error:
        raise InvalidArgument(f"--flows {path}: {error.strerror}", reason="FILE_UNREADABLE") from error


def _parsed(parse: Any, line: str, path: str, number: int) -> observer_pb2.GetFlowsResponse:
    try:
        response: observer_pb2.GetFlowsResponse = parse(line)
    except ValueError as error:
        raise InvalidArgument(f"--flows {path}, line {number}: {error}", reason="FILE_UNREADABLE") from error
    return response


def _replay(client: Client, change: pb.PolicyChangeSet, recording: Any, limit: int, output: str) -> bool:
    from axoneme.api.policy.v1 import policy_pb2

    changed: list[tuple[pb.RecordedFlow, pb.ReplayedFlow, int]] = []
    problems: Counter[str] = Counter()
    for batch in _batches(recording.flows(), BATCH):
        request = policy_pb2.ReplayFlowsRequest(change=change, flows=[flow for flow, _ in batch])
        seconds = max(client.timeout_seconds, REPLAY_SECONDS)
        answer = client.policy.ReplayFlows(request, timeout=seconds)
        for (flow, count), outcome in zip(batch, answer.flows, strict=True):
            if outcome.problem:
                problems[outcome.problem] += count
            elif outcome.before != outcome.after:
                changed.append((flow, outcome, count))
    number = sum(count for _, _, count in changed)
    if output == "json":
        rows = [
            {"flow": flow, "outcome": outcome, "count": count} for flow, outcome, count in changed[:limit]
        ]
        totals = {"changed": number, "total": recording.total, "skipped": recording.skipped}
        print_json({"flows": rows, **totals, "problems": dict(problems)})
        return bool(changed)
    _print_replay(changed[:limit])
    click.echo(f"{number} of {recording.total} flows would change")
    if recording.skipped:
        click.echo(
            f"{recording.skipped} records left out: replies, or nothing that policy looks at", err=True
        )
    for problem, count in problems.most_common(10):
        click.echo(f"Warning: {count} flows not judged: {problem}", err=True)
    return bool(changed)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _print_replay(changed: list[tuple[pb.RecordedFlow, pb.ReplayedFlow, int]]) -> None:
    """Grouped by what happens to them."""

    def verdicts(one: tuple[pb.RecordedFlow, pb.ReplayedFlow, int]) -> tuple[int, int]:
        return one[1].before, one[1].after

    for (before, after), group in itertools.groupby(sorted(changed, key=verdicts), key=verdicts):
        rows = list(group)
        total = sum(count for _, _, count in rows)
        click.echo(f"{VERDICTS.get(before, '?')} -> {VERDICTS.get(after, '?')}: {total} flows")
        for flow, outcome, count in rows[:LISTED]:
            rules = "; ".join(map(rule_text, outcome.rules))
            because = f"  by {rules}" if rules else ""
            click.echo(f"  {count:>6}  {flow_text(flow)}{because}")


def flow_text(flow: pb.RecordedFlow) -> str:
    """`k8s:app=a -> 192.0.2.7 443/TCP`."""
    from services.policy.commands.partytext import protocol_name

    port = f"{flow.port}/{protocol_name(flow.protocol)}"
    return f"{_party_text(flow.source)} -> {_party_text(flow.destination)} {port}"


def _party_text(party: pb.FlowParty) -> str:
    kind = party.WhichOneof("kind")
    if kind == "labels":
        own = [one for one in party.labels.labels if not one.startswith("k8s:io.cilium.k8s.")]
        return ",".join(own or party.labels.labels)
    if kind == "ip":
        names = f" ({', '.join(party.dns_names)})" if party.dns_names else ""
        return f"{party.ip}{names}"
    return f"identity {party.identity}"
