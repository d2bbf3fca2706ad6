"""`axoneme relay`: serve the Hubble relay. Flows are read with `axoneme observe`."""

from __future__ import annotations

import click

from axoneme.lib import config as configuration
from services.hubble_relay.config import RelayConfig


@click.group(
    epilog="""\b
Examples:
  axoneme relay serve --peer-service 198.18.1.101:4244,198.18.1.102:4244 --config relay.toml
  axoneme observe --follow"""
)
def relay() -> None:
    """Serve the flows of all nodes to Hubble's clients."""


@relay.command()
@configuration.click_options(RelayConfig)
def serve(config: RelayConfig) -> None:
    """Serve the Hubble relay (gRPC on 4245).

    \b
    Example:
      axoneme relay serve --config relay.toml --listen-address 0.0.0.0:4245
    """
    from services.hubble_relay.main import serve as run

    code = run(config)
    if code:
        raise click.exceptions.Exit(code)
