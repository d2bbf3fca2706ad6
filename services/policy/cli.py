"""`axoneme policy`: apply, get, delete and list policies; serve. Only a command that calls imports gRPC.

The other commands of the group have modules of their own: explain, diff, status and selectors, test and
validate.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import print_json, print_table
from axoneme.lib import config as configuration
from axoneme.lib.errors import InvalidArgument, NotFound
from services.policy.commands.clifaults import print_faults
from services.policy.commands.diffcli import diff
from services.policy.commands.explaincli import explain
from services.policy.commands.kinds import CNP, kind_of, namespaced
from services.policy.commands.statuscli import selectors, status
from services.policy.commands.testcli import test, validate
from services.policy.config import PolicyConfig

if TYPE_CHECKING:
    from axoneme.api.policy.v1.policy_pb2 import AppliedPolicy, Policy
    from axoneme.client import Client

_OUTCOMES = {1: "created", 2: "configured", 3: "unchanged"}
PAGE_SIZE = 500
MAX_FILE_BYTES = 256 * 1024


def namespace_option(text: str) -> Callable[[Any], Any]:
    """`-n NAME`, with what it means for the command."""
    return click.option("-n", "--namespace", default="", metavar="NAME", help=text)


request_id_option = click.option(
    "--request-id", default="", help="Repeat a request safely under the same id."
)
output_option = click.option(
    "-o", "--output", type=click.Choice(("table", "yaml", "json")), default="table", show_default=True
)


@click.group(
    epilog="""\b
Examples:
  axoneme policy apply -f examples/policies/allow-frontend.yaml
  cat policy.yaml | axoneme policy apply -f - --validate-only
  axoneme policy list -n default
  axoneme policy get allow-frontend -o yaml
  axoneme policy delete allow-frontend
  axoneme policy status
  axoneme policy explain --from default/frontend --to default/backend --port 8080/tcp
  axoneme policy diff -f changed.yaml
  axoneme policy test tests.yaml"""
)
def policy() -> None:
    """Apply, inspect, explain and test policies; serve the policy service."""


@policy.command()
@configuration.click_options(PolicyConfig)
def serve(config: PolicyConfig) -> None:
    """Serve the policy service (gRPC on 4302).

    \b
    Example:
      axoneme policy serve --config policy.toml
    """
    from services.policy.main import serve as run

    code = run(config)
    if code:
        raise click.exceptions.Exit(code)


@policy.command()
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="YAML or JSON file, or - for standard input; may be repeated.",
)
@click.option("--validate-only", "--dry-run", is_flag=True, help="Check and resolve, store nothing.")
@click.option("--expected-revision", type=int, default=0, help="Refuse when the policy has another revision.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@namespace_option("Namespace of policies that name none; those that name another are refused [default].")
@request_id_option
@connected
def apply(
    client: Client,
    files: tuple[str, ...],
    validate_only: bool,
    expected_revision: int,
    output: str,
    namespace: str,
    request_id: str,
) -> None:
    """Create or change the policies of files: of each file all of them, or none.

    \b
    Examples:
      axoneme policy apply -f examples/policies/allow-frontend.yaml
      axoneme policy apply -f - -n shop < policy.yaml
    """
    from axoneme.api.policy.v1 import policy_pb2

    if request_id and len(files) > 1:
        raise click.UsageError("--request-id goes with one file")
    for filename in files:
        name, text = read_text(filename)
        request = policy_pb2.ApplyPolicyRequest(
            request_id=request_id or uuid.uuid4().hex,
            text=text,
            expected_revision=expected_revision,
            validate_only=validate_only,
            namespace=namespace,
            only_namespace=bool(namespace),
        )
        with print_faults(name):
            answer = client.policy.ApplyPolicy(request)
        if output == "json":
            print_json(answer)
        else:
            _print_applied(answer.policies, validate_only)


def _print_applied(applied: Iterable[AppliedPolicy], validate_only: bool) -> None:
    suffix = " (checked only, nothing stored)" if validate_only else ""
    for one in applied:
        outcome = _OUTCOMES.get(one.outcome, "changed")
        where = f" (namespace {one.policy.namespace})" if one.policy.namespace else ""
        click.echo(f"{_reference(one.policy)} {outcome}{where}{suffix}")
        for change in one.changes:
            click.echo(f"  {change}")
        for warning in one.warnings:
            click.echo(f"Warning: {_reference(one.policy)}: {warning}", err=True)


@policy.command()
@click.argument("references", nargs=-1, metavar="[KIND/[NAMESPACE/]]NAME...")
@click.option("-f", "--filename", default="", help="Delete the policies that this file names.")
@click.option("--ignore-not-found", is_flag=True, help="A policy that is not there is no error.")
@namespace_option("Namespace of names that say none [default: default].")
@connected
def delete(
    client: Client, references: tuple[str, ...], filename: str, ignore_not_found: bool, namespace: str
) -> None:
    """Delete policies by name or by file.

    \b
    Examples:
      axoneme policy delete allow-frontend
      axoneme policy delete cnp/shop/allow-frontend
      axoneme policy delete -f examples/policies/allow-frontend.yaml
    """
    from axoneme.api.policy.v1 import policy_pb2

    if not references and not filename:
        raise click.UsageError("name a policy, or give a file with -f")
    keys = [parse_reference(reference, namespace) for reference in references]
    keys += list(_keys_of_file(filename, namespace)) if filename else []
    for kind, space, name in keys:
        request = policy_pb2.DeletePolicyRequest(
            request_id=uuid.uuid4().hex, kind=kind, namespace=space, name=name
        )
        try:
            client.policy.DeletePolicy(request)
        except NotFound:
            if not ignore_not_found:
                raise
            continue
        where = f" (namespace {space})" if space else ""
        click.echo(f"{kind.lower()}/{name} deleted{where}")


@policy.command()
@click.argument("reference", metavar="[KIND/[NAMESPACE/]]NAME")
@output_option
@namespace_option("Namespace of the policy [default: default].")
@connected
def get(client: Client, reference: str, output: str, namespace: str) -> None:
    """Show one policy.

    \b
    Examples:
      axoneme policy get allow-frontend
      axoneme policy get cnp/shop/allow-frontend -o yaml
    """
    from axoneme.api.policy.v1 import policy_pb2

    kind, space, name = parse_reference(reference, namespace)
    request = policy_pb2.GetPolicyRequest(kind=kind, namespace=space, name=name)
    _show([client.policy.GetPolicy(request).policy], output, single=True)


@policy.command(name="list")
@click.option("--filter", "substring", default="", help="Only names that contain this text.")
@output_option
@namespace_option("Only this namespace [default: all].")
@connected
def list_(client: Client, substring: str, output: str, namespace: str) -> None:
    """List policies of one namespace, or of all.

    \b
    Examples:
      axoneme policy list
      axoneme policy list -n default -o yaml
    """
    _show(list(_pages(client, namespace, substring)), output)


def parse_reference(reference: str, namespace: str = "") -> tuple[str, str, str]:
    """Kind, namespace and name of `NAME`, `KIND/NAME` or `KIND/NAMESPACE/NAME`."""
    parts = reference.split("/")
    if not all(parts) or len(parts) > 3:
        raise click.UsageError(f"{reference!r} is no policy; write NAME, KIND/NAME or KIND/NAMESPACE/NAME")
    kind = CNP if len(parts) == 1 else kind_of(parts[0])
    if not kind:
        example = f"cnp/{parts[0]}/{parts[1]}" if len(parts) == 2 else f"cnp/{parts[1]}/{parts[2]}"
        raise click.UsageError(f"{parts[0]!r} in {reference!r} is no kind of policy; write {example}")
    if not namespaced(kind):
        if len(parts) == 3:
            raise click.UsageError(f"a {kind} has no namespace; write {parts[0]}/{parts[2]}")
        return kind, "", parts[-1]
    space = parts[1] if len(parts) == 3 else namespace or "default"
    return kind, space, parts[-1]


def _pages(client: Client, namespace: str, substring: str) -> Iterator[Policy]:
    from axoneme.api.policy.v1 import policy_pb2

    token = ""
    while True:
        request = policy_pb2.ListPoliciesRequest(
            page_size=PAGE_SIZE, page_token=token, namespace=namespace, filter=substring
        )
        answer = client.policy.ListPolicies(request)
        yield from answer.policies
        token = answer.next_page_token
        if not token:
            return


def _keys_of_file(filename: str, namespace: str) -> Iterator[tuple[str, str, str]]:
    from services.policy.reading.objects import parse_objects

    name, text = read_text(filename)
    with print_faults(name):
        for one in parse_objects(text, namespace or "default"):
            yield one.key


def read_text(filename: str) -> tuple[str, str]:
    """Name and text of a file, - is standard input. Raises InvalidArgument."""
    if filename == "-":
        raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        name = "<stdin>"
    else:
        name = filename
        try:
            with Path(filename).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InvalidArgument(f"{filename}: {error.strerror}", reason="FILE_UNREADABLE") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidArgument(
            f"{name}: larger than {MAX_FILE_BYTES} bytes; split it", reason="FILE_TOO_LARGE"
        )
    try:
        return name, raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name}: is not UTF-8 text", reason="FILE_UNREADABLE") from error


def _show(policies: list[Policy], output: str, *, single: bool = False) -> None:
    if output == "table":
        rows = [[one.kind, one.namespace, one.name, one.revision, one.generation] for one in policies]
        print_table(["kind", "namespace", "name", "revision", "generation"], rows, empty="no policies")
        return
    objects = [_object(one) for one in policies]
    value: Any = objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": objects}
    if output == "json":
        print_json(value)
        return
    import yaml

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def _object(one: Policy) -> Any:
    try:
        return json.loads(one.document)
    except ValueError:
        return {"kind": one.kind, "metadata": {"namespace": one.namespace, "name": one.name}}


def _reference(one: Policy) -> str:
    return f"{one.kind.lower()}/{one.name}"


for _command in (explain, diff, status, selectors, test, validate):
    policy.add_command(_command)
