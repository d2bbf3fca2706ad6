"""`axoneme identity`: serve the service, look at identities. Only a command that calls imports gRPC."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json, print_table
from axoneme.lib import config as configuration
from services.identity.config import IdentityConfig

if TYPE_CHECKING:
    from axoneme.api.identity.v1.identity_pb2 import Identity
    from axoneme.client import Client

PAGE_SIZE = 1_000


@click.group(
    epilog="""\b
Examples:
  axoneme identity list
  axoneme identity list --filter app=backend -o json
  axoneme identity get 9"""
)
def identity() -> None:
    """Look at identities; serve the identity service."""


@identity.command()
@configuration.click_options(IdentityConfig)
def serve(config: IdentityConfig) -> None:
    """Serve the identity service (gRPC on 4301).

    \b
    Example:
      axoneme identity serve --config identity.toml
    """
    from services.identity.main import main

    config.check()
    sys.exit(main(config))


@identity.command("list")
@click.option("--filter", "wanted", default="", help="Only identities with this text in a label.")
@click.option("--reserved/--no-reserved", default=True, show_default=True, help="Show reserved numbers too.")
@output_option
@connected
def list_(client: Client, wanted: str, reserved: bool, output: str) -> None:
    """List identities by number.

    \b
    Examples:
      axoneme identity list --no-reserved
      axoneme identity list --filter app=backend -o json
    """
    found = [item for item in _all(client, wanted) if reserved or item.identity >= 256]
    if output == "json":
        print_json(found)
        return
    rows = [(item.identity, " ".join(item.labels)) for item in found]
    print_table(("identity", "labels"), rows, empty="no identities")


@identity.command()
@click.argument("number", type=click.IntRange(min=1))
@output_option
@connected
def get(client: Client, number: int, output: str) -> None:
    """Show the labels of one identity.

    \b
    Example:
      axoneme identity get 9
    """
    from axoneme.api.identity.v1 import identity_pb2

    found = client.identity.GetIdentity(identity_pb2.GetIdentityRequest(identity=number)).identity
    if output == "json":
        print_json(found)
        return
    print_table(("identity", "labels"), [(found.identity, label) for label in found.labels])


def _all(client: Client, wanted: str) -> list[Identity]:
    from axoneme.api.identity.v1 import identity_pb2

    found: list[Identity] = []
    token = ""
    while True:
        request = identity_pb2.ListIdentitiesRequest(page_size=PAGE_SIZE, page_token=token, filter=wanted)
        answer = client.identity.ListIdentities(request)
        found += answer.identities
        token = answer.next_page_token
        if not token:
            return found
