"""What several commands share: names of services, files, and faults in files."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from axoneme.lib.errors import InvalidArgument

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1.clustermesh_pb2 import Service
    from axoneme.client import Client
    from services.clustermesh.manifests.manifest import Manifest

MAX_FILE_BYTES = 256 * 1024
_LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)

output_option = click.option(
    "-o", "--output", type=click.Choice(("table", "yaml", "json")), default="table", show_default=True
)
namespace_option = click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NAME", help="Where none is named."
)


def parse_reference(text: str, namespace: str) -> tuple[str, str]:
    """Namespace and name of `NAME` or `NAMESPACE/NAME`."""
    parts = text.split("/")
    if not all(parts) or len(parts) > 2:
        raise click.UsageError(f"{text!r} is no service; write NAME or NAMESPACE/NAME")
    return (namespace, parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def read_services(client: Client, filename: str, namespace: str) -> tuple[str, Manifest]:
    """Name of a file and the services that it asks for; its faults are printed and end the command."""
    source, text = read_text(filename)
    with _print_faults(source):
        return source, _manifest(client, text, namespace)


def _manifest(client: Client, text: str, namespace: str) -> Manifest:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2
    from services.clustermesh.manifests.manifest import read_manifest

    def fetch(space: str, name: str) -> Service:
        request = clustermesh_pb2.GetServiceRequest(namespace=space, name=name)
        return client.clustermesh.GetService(request).service

    return read_manifest(text, namespace, fetch)


def read_text(filename: str) -> tuple[str, str]:
    """Name and text of a file, - is standard input. Raises InvalidArgument."""
    name = "<stdin>" if filename == "-" else filename
    try:
        if filename == "-":
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(filename).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode()
    except OSError as error:
        raise InvalidArgument(f"{name}: {error.strerror}", reason="FILE_UNREADABLE") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name}: is not UTF-8 text", reason="FILE_UNREADABLE") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidArgument(
            f"{name}: larger than {MAX_FILE_BYTES} bytes; split it", reason="FILE_TOO_LARGE"
        )
    return name, text


@contextlib.contextmanager
def _print_faults(source: str) -> Iterator[None]:
    """Prints the faults of a file as `file:line: path: reason` and ends with code 1."""
    try:
        yield
    except InvalidArgument as error:
        located = [(field, _LINE.fullmatch(text)) for field, text in error.violations]
        if not any(found for _, found in located):
            raise
        for field, found in located:
            if found:
                path = f"{field}: " if field else ""
                click.echo(f"Error: {source}:{found[1]}: {path}{found[2]}", err=True)
        raise click.exceptions.Exit(1) from error
