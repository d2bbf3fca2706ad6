"""`axoneme certs`: a CA, certificates by role, and what stands in a certificate."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axoneme.cli import render
from axoneme.lib.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from cryptography import x509

_TTL = re.compile(r"(\d+)(d|h|m|s)")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
DIRECTORY = click.Path(file_okay=False, path_type=Path)

EPILOG = """\b
Examples:
  axoneme certs ca --directory ca --trust-domain east.mesh
  axoneme certs issue --ca ca --role svc --name identity --out identity --ip 10.0.0.5
  axoneme certs issue --ca ca --role user/reader --name ann --out ann --ttl 30d
  axoneme certs show ann/tls.crt"""


class Lifetime(click.ParamType[dt.timedelta]):
    """A duration such as 365d, 12h, 30m or 90s."""

    name = "ttl"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.timedelta:
        if isinstance(value, dt.timedelta):
            return value
        match = _TTL.fullmatch(str(value))
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is not a duration; write 365d, 12h, 30m or 90s", param, ctx)
        return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.group(epilog=EPILOG)
def certs() -> None:
    """Make a CA and certificates, and show them."""


@certs.command()
@click.option("--directory", type=DIRECTORY, required=True, help="New folder of the CA (mode 0700).")
@click.option("--trust-domain", required=True, metavar="NAME", help="Such as east.mesh.")
@click.option("--ttl", type=Lifetime(), default="3650d", show_default=True, help="How long it is good.")
def ca(directory: Path, trust_domain: str, ttl: dt.timedelta) -> None:
    """Makes a CA: ca.crt and ca.key.

    \b
    Example:
      axoneme certs ca --directory ca --trust-domain east.mesh
    """
    from axoneme.lib.certs import create_ca

    create_ca(directory, trust_domain, ttl=ttl)
    click.echo(f"CA of {trust_domain} in {directory}: ca.crt, ca.key (keep the key here)")


@certs.command(epilog=EPILOG)
@click.option("--ca", "ca_directory", type=DIRECTORY, required=True, help="Folder of the CA.")
@click.option(
    "--role",
    type=click.Choice(["svc", "node", "user/reader", "user/admin", "peer"]),
    required=True,
    help="What the holder may do.",
)
@click.option("--name", required=True, help="Service, node, user or remote cluster.")
@click.option(
    "--out", "out_directory", type=DIRECTORY, required=True, help="Folder for ca.crt, tls.crt, tls.key."
)
@click.option("--ttl", type=Lifetime(), default="365d", show_default=True, help="How long it is good.")
@click.option("--dns", "dns_sans", multiple=True, metavar="NAME", help="Further DNS name; repeatable.")
@click.option("--ip", "ip_sans", multiple=True, metavar="ADDRESS", help="Address; repeatable.")
@click.option(
    "--cluster", default=None, help="Cluster in a node's Hubble name [default: from the trust domain]."
)
def issue(
    ca_directory: Path,
    role: str,
    name: str,
    out_directory: Path,
    ttl: dt.timedelta,
    dns_sans: tuple[str, ...],
    ip_sans: tuple[str, ...],
    cluster: str | None,
) -> None:
    """Issues a certificate of a role, or renews it in place: running processes follow the files."""
    from axoneme.lib import certs as library

    certificate = library.issue(
        ca_directory, role, name, out_directory, ttl, dns_sans, ip_sans, cluster=cluster
    )
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    click.echo(f"{_identity(certificate)} in {out_directory}, good until {until}")


@certs.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE|DIRECTORY...",
    type=click.Path(exists=True, path_type=Path),
)
@render.output_option
def show(files: tuple[Path, ...], output: str) -> None:
    """Shows who a certificate stands for and how long it is good; of a directory, its tls.crt.

    \b
    Examples:
      axoneme certs show ann
      axoneme certs show ca/ca.crt ann/tls.crt -o json
    """
    rows = [_row(path, certificate) for path in files for certificate in _certificates(path)]
    if output == "json":
        render.print_json(rows)
        return
    headers = ("file", "id", "names", "not before", "not after", "state")
    render.print_table(headers, [[row[header.replace(" ", "_")] for header in headers] for row in rows])


def _certificates(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    path = path / "tls.crt" if path.is_dir() else path
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgument(f"{path} holds no PEM certificate; give a .crt file") from error


def _row(path: Path, certificate: x509.Certificate) -> dict[str, Any]:
    from axoneme.lib.peercert import subject_names

    _, names = subject_names(certificate)
    return {
        "file": str(path),
        "id": _identity(certificate),
        "names": list(names) + _addresses(certificate),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "serial": f"{certificate.serial_number:x}",
        "issuer": certificate.issuer.rfc4514_string(),
        "state": validity(certificate, dt.datetime.now(dt.UTC)),
    }


def validity(certificate: x509.Certificate, now: dt.datetime) -> str:
    """`good for 12 days`, `ended 3 days ago` or `starts in 2 hours`."""
    if now > certificate.not_valid_after_utc:
        return f"ended {_span(now - certificate.not_valid_after_utc)} ago"
    if now < certificate.not_valid_before_utc:
        return f"starts in {_span(certificate.not_valid_before_utc - now)}"
    return f"good for {_span(certificate.not_valid_after_utc - now)}"


def _span(duration: dt.timedelta) -> str:
    seconds = int(duration.total_seconds())
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return "0 seconds"


def _identity(certificate: x509.Certificate) -> str:
    from axoneme.lib.peercert import subject_names

    uris, names = subject_names(certificate)
    return ",".join(uris) or (names[-1] if names else "-")


def _addresses(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(address) for address in san.get_values_for_type(x509.IPAddress)]
