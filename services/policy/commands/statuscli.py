"""`axoneme policy status` and `axoneme policy selectors`: where policies stand, and whom selectors select."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from services.policy.commands.policyview import policy_text

if TYPE_CHECKING:
    from axoneme.api.policy.v1 import policy_pb2 as pb
    from axoneme.client import Client

PAGE_SIZE = 500


@click.command()
@click.argument("reference", default="", metavar="[[KIND/[NAMESPACE/]]NAME]")
@click.option("-n", "--namespace", default="", metavar="NAME", help="Only this namespace [default: all].")
@output_option
@connected
def status(client: Client, reference: str, namespace: str, output: str) -> None:
    """Show where policies are in force: nodes that acknowledged, problems, warnings.

    \b
    Examples:
      axoneme policy status
      axoneme policy status allow-frontend -n default
      axoneme policy status -o json
    """
    from services.policy.cli import parse_reference

    kind, space, name = ("", namespace, "")
    if reference:
        kind, space, name = parse_reference(reference, namespace)
    found = list(_statuses(client, kind, space, name))
    if reference and not found:
        from axoneme.lib.errors import NotFound

        raise NotFound(f"policy {reference} does not exist")
    if output == "json":
        print_json(found)
        return
    rows = [_row(one) for one in found]
    headers = ["policy", "accepted", "in force", "revision", "identities", "mode"]
    print_table(headers, rows, empty="no policies")
    for one in found:
        _print_notes(one)


def _statuses(client: Client, kind: str, namespace: str, name: str) -> Iterator[pb.PolicyStatus]:
    from axoneme.api.policy.v1 import policy_pb2

    token = ""
    while True:
        request = policy_pb2.GetPolicyStatusRequest(
            page_size=PAGE_SIZE, page_token=token, kind=kind, namespace=namespace, name=name
        )
        answer = client.policy.GetPolicyStatus(request)
        yield from answer.policies
        token = answer.next_page_token
        if not token:
            return


def _row(one: pb.PolicyStatus) -> list[object]:
    nodes = f"{one.acknowledged_nodes}/{one.expected_nodes} nodes"
    mode = "audit" if one.audit else "enforced"
    return [policy_text(one.policy), one.accepted, nodes, one.revision, one.subjects, mode]


def _print_notes(one: pb.PolicyStatus) -> None:
    name = policy_text(one.policy)
    if one.problem:
        click.echo(f"Problem: {name}: {one.problem}", err=True)
    for lag in one.pending:
        reason = lag.reason or "has not answered yet"
        click.echo(f"Pending: {name}: node {lag.node_name}: {reason}", err=True)
    for warning in one.warnings:
        click.echo(f"Warning: {name}: {warning}", err=True)


@click.command()
@click.option("--filter", "substring", default="", help="Only selectors whose text contains this.")
@output_option
@connected
def selectors(client: Client, substring: str, output: str) -> None:
    """List the selectors of all policies and the identities that they select.

    \b
    Example:
      axoneme policy selectors --filter app
    """
    found = list(_selectors(client, substring))
    if output == "json":
        print_json(found)
        return
    rows = [[one.text, one.uses, one.identity_count, _identities(one)] for one in found]
    print_table(["selector", "uses", "count", "identities"], rows, empty="no selectors")


def _selectors(client: Client, substring: str) -> Iterator[pb.SelectorUse]:
    from axoneme.api.policy.v1 import policy_pb2

    token = ""
    while True:
        request = policy_pb2.ListSelectorsRequest(page_size=PAGE_SIZE, page_token=token, filter=substring)
        answer = client.policy.ListSelectors(request)
        yield from answer.selectors
        token = answer.next_page_token
        if not token:
            return


def _identities(one: pb.SelectorUse) -> str:
    shown = ",".join(map(str, one.identities[:10]))
    return f"{shown},…" if one.identity_count > 10 else shown
