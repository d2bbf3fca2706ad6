"""From options and settings to the server that is asked, with the rules of the stock CLI where they hold.

Order: --socket, --node or --server; --context or --lab-cluster; HUBBLE_SERVER; the config file; our own
context. A server over TCP is spoken to with the certificates of the context unless TLS is said otherwise;
where there is no context it is plaintext, as the stock CLI does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from axoneme.cli.hubble.settings import ENVIRONMENT, FILE, FLAG, Settings, load_settings
from axoneme.client.context import Context, load_context
from axoneme.lib.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from axoneme.cli.hubble.server import Server
    from axoneme.lib.clientchannel import Security

TLS_SCHEME: Final = "tls://"
TLS_FILES: Final = ("tls-ca-cert-files", "tls-client-cert-file", "tls-client-key-file", "tls-allow-insecure")
PORT_FORWARD: Final = (
    "--port-forward needs the Kubernetes API, which axoneme does not speak; run `kubectl -n kube-system "
    "port-forward service/hubble-relay 4245:80` and give --server localhost:4245"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the options name, before any file of certificates is read."""

    settings: Settings
    socket_path: str = ""
    node: str = ""
    context_file: Path | None = None
    lab_cluster: str | None = None


def chosen_of(options: Mapping[str, Any]) -> Chosen:
    """The part of a command's options that is about connections. Raises InvalidArgument."""
    settings = load_settings(options, config=options.get("config_file"))
    if settings.flag("port-forward"):
        raise InvalidArgument(PORT_FORWARD)
    return Chosen(
        settings=settings,
        socket_path=options.get("socket_path") or "",
        node=options.get("node") or "",
        context_file=options.get("context_file"),
        lab_cluster=options.get("lab_cluster"),
    )


def open_server(chosen: Chosen) -> Server:
    """The server to ask. Raises NotFound, InvalidArgument."""
    from axoneme.cli.hubble.server import Server

    settings = chosen.settings
    target, seconds = _named_target(chosen), _seconds(settings)
    credentials = _credentials(settings)
    if not target:
        if credentials:
            raise InvalidArgument("basic authentication is for --server; the context has certificates")
        return _context_server(chosen, seconds)
    target, security = security_of(target, chosen)
    if credentials and security is None:
        raise InvalidArgument("basic authentication over plaintext would show the password; give --tls")
    own = target.startswith("unix:") or (security is not None and security.private_key_only)
    return Server([target], security, name=target, own=own, credentials=credentials, seconds=seconds)


def _named_target(chosen: Chosen) -> str:
    """Target of flags, environment or file; empty for the context's relay."""
    settings = chosen.settings
    source = settings.sources["server"] if settings.text("server") else ""
    named = [bool(chosen.socket_path), bool(chosen.node), source == FLAG]
    if sum(named) > 1:
        raise InvalidArgument("--server, --socket and --node exclude each other")
    if chosen.socket_path:
        return f"unix://{Path(chosen.socket_path).absolute()}"
    if chosen.node:
        return f"unix://{_context(chosen).node_socket(chosen.node).absolute()}"
    if source == FLAG:
        return settings.text("server")
    if source in (ENVIRONMENT, FILE) and chosen.context_file is None and chosen.lab_cluster is None:
        if source == FILE:
            click.echo(f"using the server {settings.text('server')} of {settings.file}", err=True)
        return settings.text("server")
    return ""


def security_of(target: str, chosen: Chosen) -> tuple[str, Security | None]:
    """Target without scheme, and how to speak to it; None for plaintext. Raises InvalidArgument."""
    settings = chosen.settings
    wanted = settings.flag("tls") if settings.given("tls") else None
    if target.startswith(TLS_SCHEME):
        target, wanted = target.removeprefix(TLS_SCHEME), True
    _check_pair(settings)
    if wanted:
        return target, _stock_security(settings)
    if any(settings.given(name) and settings.values[name] for name in TLS_FILES):
        raise InvalidArgument("files and modes of TLS are given, but not TLS itself: give --tls too")
    if wanted is None and not target.startswith("unix:"):
        return target, _context_security(chosen)
    return target, None


def _check_pair(settings: Settings) -> None:
    cert, key = settings.text("tls-client-cert-file"), settings.text("tls-client-key-file")
    if bool(cert) != bool(key):
        raise InvalidArgument("certificate and private key are both required, but only one was provided")


def _stock_security(settings: Settings) -> Security:
    from axoneme.lib.clientchannel import Security

    cert, key = settings.text("tls-client-cert-file"), settings.text("tls-client-key-file")
    return Security(
        ca_files=tuple(Path(name).expanduser() for name in settings.texts("tls-ca-cert-files")),
        cert_file=Path(cert).expanduser() if cert else None,
        key_file=Path(key).expanduser() if key else None,
        server_name=settings.text("tls-server-name"),
        verify=not settings.flag("tls-allow-insecure"),
    )


def _context_security(chosen: Chosen) -> Security | None:
    """Certificates of the context; None when there is no context."""
    try:
        context = _context(chosen)
    except NotFound:
        if chosen.context_file is not None or chosen.lab_cluster is not None:
            raise
        return None
    name = chosen.settings.text("tls-server-name") or context.server_name("relay")
    return _certificates(context, name)


def _certificates(context: Context, server_name: str) -> Security:
    from axoneme.lib.clientchannel import Security

    if context.ca_file is None or context.cert_file is None or context.key_file is None:
        raise InvalidArgument(
            f"the context {context.source} names no certificates; a server over TCP needs them, "
            "or say how to speak to it with --tls or --tls=false"
        )
    return Security(
        ca_files=(context.ca_file,),
        cert_file=context.cert_file,
        key_file=context.key_file,
        server_name=server_name,
        private_key_only=True,
    )


def _context_server(chosen: Chosen, seconds: float) -> Server:
    from axoneme.cli.hubble.server import Server

    context = _context(chosen)
    if context.from_lab:
        click.echo(f"using the running lab (cluster {context.cluster})", err=True)
    if context.simulated:
        click.echo("simulated: no packets, so there are no flows", err=True)
    targets = context.targets("relay")
    security = _certificates(context, context.server_name("relay"))
    return Server(targets, security, name=targets[0], own=True, seconds=seconds)


def _context(chosen: Chosen) -> Context:
    return load_context(chosen.context_file, cluster=chosen.lab_cluster)


def _credentials(settings: Settings) -> tuple[str, str] | None:
    user, password = settings.text("basic-auth-username"), settings.text("basic-auth-password")
    if bool(user) != bool(password):
        raise InvalidArgument("must specify both --basic-auth-username and --basic-auth-password")
    return (user, password) if user else None


def _seconds(settings: Settings) -> float:
    """Deadline of unary calls."""
    name = "timeout" if settings.given("timeout") and not settings.given("request-timeout") else None
    return settings.seconds(name or "request-timeout")
