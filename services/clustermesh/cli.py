"""`axoneme service` and `axoneme clustermesh`. Only a command that calls imports gRPC."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import print_json, print_table
from axoneme.lib import config as configuration
from axoneme.lib.errors import NotFound
from services.clustermesh.applycli import apply
from services.clustermesh.commandparts import namespace_option, output_option, parse_reference, read_services
from services.clustermesh.config import ClusterMeshConfig
from services.clustermesh.display import backend_rows, show

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1.clustermesh_pb2 import Service
    from axoneme.client import Client

PAGE_SIZE = 500


@click.group(
    epilog="""\b
Example:
  axoneme clustermesh serve --config clustermesh.toml"""
)
def clustermesh() -> None:
    """Serve the clustermesh service: services, their backends, what nodes balance."""


@clustermesh.command()
@configuration.click_options(ClusterMeshConfig)
def serve(config: ClusterMeshConfig) -> None:
    """Serve the clustermesh service (gRPC on 4303).

    \b
    Example:
      axoneme clustermesh serve --config clustermesh.toml
    """
    from services.clustermesh.main import serve as run

    config.check()
    sys.exit(run(config))


@click.group(
    epilog="""\b
Examples:
  axoneme service apply -f service.yaml
  axoneme service apply web --port 80:8080 --selector app=web --type NodePort
  axoneme service list
  axoneme service get shop/web -o yaml
  axoneme service delete web
  axoneme service watch"""
)
def service() -> None:
    """Apply, get, delete, list and watch services."""


@service.command()
@click.argument("reference", metavar="[NAMESPACE/]NAME")
@namespace_option
@output_option
@connected
def get(client: Client, reference: str, namespace: str, output: str) -> None:
    """Show one service with its backends.

    \b
    Examples:
      axoneme service get web
      axoneme service get shop/web -o yaml
    """
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    space, name = parse_reference(reference, namespace)
    request = clustermesh_pb2.GetServiceRequest(namespace=space, name=name)
    found = client.clustermesh.GetService(request).service
    show([found], output, single=True)
    if output == "table":
        click.echo()
        print_table(
            ("backend", "state", "node", "cluster", "ports"), backend_rows(found), empty="no backends"
        )


@service.command("list")
@click.option("--filter", "substring", default="", help="Only services with this text in NAMESPACE/NAME.")
@output_option
@connected
def list_(client: Client, substring: str, output: str) -> None:
    """List services with the number of their backends.

    \b
    Examples:
      axoneme service list
      axoneme service list --filter shop/ -o json
    """
    show(list(_pages(client, substring)), output)


@service.command()
@click.argument("references", nargs=-1, metavar="[NAMESPACE/]NAME...")
@click.option("-f", "--filename", default="", help="Delete the services that this file names.")
@click.option("--ignore-not-found", is_flag=True, help="A service that is not there is no error.")
@namespace_option
@connected
def delete(
    client: Client, references: tuple[str, ...], filename: str, ignore_not_found: bool, namespace: str
) -> None:
    """Delete services; their addresses and node ports are free again.

    \b
    Example:
      axoneme service delete shop/web
    """
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    if not references and not filename:
        raise click.UsageError("name a service, or give a file with -f")
    names = [parse_reference(one, namespace) for one in references]
    if filename:
        _, manifest = read_services(client, filename, namespace)
        names += [(one.namespace, one.name) for one in manifest.services]
    for space, name in names:
        request = clustermesh_pb2.DeleteServiceRequest(
            request_id=uuid.uuid4().hex, namespace=space, name=name
        )
        try:
            client.clustermesh.DeleteService(request)
        except NotFound:
            if not ignore_not_found:
                raise
            continue
        click.echo(f"service/{name} deleted (namespace {space})")


@service.command()
@click.option("--revision", type=click.IntRange(min=0), default=0, help="Only changes after this revision.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@connected
def watch(client: Client, revision: int, output: str) -> None:
    """Follow services and their backends until interrupted.

    \b
    Example:
      axoneme service watch -o json
    """
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    request = clustermesh_pb2.WatchServicesRequest(revision=revision)
    for step in client.clustermesh.WatchServices(request):
        if output == "json":
            print_json(step)
        elif step.WhichOneof("kind") == "put":
            backends = ", ".join(one.ip for one in step.put.backends) or "none"
            click.echo(f"{step.revision} put {step.put.namespace}/{step.put.name} backends: {backends}")
        elif step.WhichOneof("kind") == "deleted":
            click.echo(f"{step.revision} deleted {step.deleted}")
        else:
            click.echo(f"{step.revision} complete")
        sys.stdout.flush()


def _pages(client: Client, substring: str) -> Iterator[Service]:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    token = ""
    while True:
        request = clustermesh_pb2.ListServicesRequest(page_size=PAGE_SIZE, page_token=token, filter=substring)
        answer = client.clustermesh.ListServices(request)
        yield from answer.services
        token = answer.next_page_token
        if not token:
            return


service.add_command(apply)
