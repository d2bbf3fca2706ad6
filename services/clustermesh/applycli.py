"""`axoneme service apply`: services of files, or one out of flags."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from services.clustermesh.commandparts import namespace_option, output_option, parse_reference, read_services
from services.clustermesh.display import show
from services.clustermesh.quick import Flags, service_flags, service_of_flags

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1.clustermesh_pb2 import ApplyServiceResponse, Service
    from axoneme.client import Client


@click.command()
@click.argument("name", required=False)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="FILE",
    help="YAML or JSON file, or - for standard input.",
)
@service_flags
@click.option("--validate-only", "--dry-run", is_flag=True, help="Check only, store nothing.")
@click.option(
    "--expected-revision",
    type=int,
    default=0,
    help="Refuse when the service has another; -1: when it exists.",
)
@click.option("--request-id", default="", help="Repeat a request safely under the same id.")
@namespace_option
@output_option
@connected  # fmt: skip
def apply(
    client: Client,
    name: str | None,
    files: tuple[str, ...],
    validate_only: bool,
    expected_revision: int,
    request_id: str,
    namespace: str,
    output: str,
    **flags: Any,
) -> None:
    """Create or change services: those of files, or one out of flags.

    \b
    Examples:
      axoneme service apply -f service.yaml
      axoneme service apply web --port 80:8080/tcp --selector app=web
      axoneme service apply shop/dns --port 53/udp --port 53/tcp --backend 10.0.0.1 --backend 10.0.0.2
    """
    if bool(name) == bool(files):
        raise click.UsageError("name a service, or give a file with -f")
    if files and any(value for option, value in flags.items() if option != "kind"):
        raise click.UsageError("flags of a service go with a name, not with a file")
    given = {key: value for key, value in flags.items() if value is not None}
    applied = []
    if name:
        space, short = parse_reference(name, namespace)
        made = service_of_flags(Flags(name=short, namespace=space, **given))
        applied.append(_apply(client, made, expected_revision, validate_only, request_id))
    for filename in files:
        applied += _apply_file(client, filename, namespace, expected_revision, validate_only, request_id)
    if output == "table":
        _print_applied(applied, validate_only)
    else:
        show([one.service for one in applied], output, single=len(applied) == 1)


def _apply_file(
    client: Client, filename: str, namespace: str, revision: int, dry: bool, request_id: str
) -> list[ApplyServiceResponse]:
    source, manifest = read_services(client, filename, namespace)
    for warning in manifest.warnings:
        click.echo(f"Warning: {source}: {warning}", err=True)
    if len(manifest.services) > 1 and (request_id or revision > 0):
        raise click.UsageError("--request-id and --expected-revision go with one service")
    return [
        _apply(client, one, revision or manifest.known.get((one.namespace, one.name), 0), dry, request_id)
        for one in manifest.services
    ]


def _apply(client: Client, made: Service, revision: int, dry: bool, request_id: str) -> ApplyServiceResponse:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    request = clustermesh_pb2.ApplyServiceRequest(
        request_id=request_id or uuid.uuid4().hex,
        service=made,
        expected_revision=revision,
        validate_only=dry,
    )
    return client.clustermesh.ApplyService(request)


def _print_applied(applied: list[ApplyServiceResponse], dry: bool) -> None:
    suffix = " (checked only, nothing stored)" if dry else ""
    for one in applied:
        name = f"service/{one.service.name}"
        where = [
            *one.service.cluster_ips,
            *(f"node port {p.node_port}" for p in one.service.ports if p.node_port),
        ]
        at = f" at {', '.join(where)}" if where else ""
        outcome = "created" if one.created else "configured"
        click.echo(f"{name} {outcome}{at} (namespace {one.service.namespace}){suffix}")
        for warning in one.warnings:
            click.echo(f"Warning: {name}: {warning}", err=True)
