"""`axoneme fqdn`: what endpoints looked up, by which rules they are judged, and the proxy of a node itself.

gRPC and the proxy are imported inside the commands that need them, so that `--help` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from axoneme.cli.connection import connected
from axoneme.cli.nodes import node_option, nodes_of, one_node, pages, places_of
from axoneme.cli.render import message_dict, output_option, print_json, print_table
from axoneme.lib import config as configuration
from services.fqdn.config import FqdnConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from axoneme.client.sync import Client

SOURCES = {1: "lookup", 2: "reported"}


@click.group(
    epilog="""\b
Examples:
  axoneme fqdn cache list
  axoneme fqdn cache list --endpoint shop/web --matchpattern '*.example.com'
  axoneme fqdn names
  axoneme fqdn status"""
)
def fqdn() -> None:
    """The DNS proxy of a node: names that endpoints looked up, rules, selectors."""


@fqdn.command()
@configuration.click_options(FqdnConfig)
def serve(config: FqdnConfig) -> None:
    """Serve the DNS proxy of a node alone; `axoneme node serve` runs it beside the shim.

    \b
    Example:
      axoneme fqdn serve --config /etc/axoneme/node.toml
    """
    from services.fqdn.main import serve as run

    if code := run(config):
        raise click.exceptions.Exit(code)


@fqdn.group(
    epilog="""\b
Examples:
  axoneme fqdn cache list -o json > names.json      what `pre_cache` of [fqdn] reads
  axoneme fqdn cache clean --matchpattern '*.example.com'"""
)
def cache() -> None:
    """Names with the addresses that endpoints got, until they expire."""


def _matching(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--endpoint", default="", metavar="ENDPOINT", help="Number, pod or NAMESPACE/NAME; default: all."
    )(command)
    return click.option(
        "--matchpattern", default="", metavar="PATTERN", help="Only names that match, as in matchPattern."
    )(command)


@cache.command("list")
@_matching
@click.option("--cidr", default="", metavar="CIDR", help="Only names with an address inside.")
@click.option("--source", type=click.Choice(tuple(SOURCES.values())), help="Only entries from here.")
@node_option("Only this node; default: all of the context.")
@output_option
@connected
def cache_list(
    client: Client, endpoint: str, matchpattern: str, cidr: str, source: str, node_name: str, output: str
) -> None:
    """List names that endpoints looked up and that have not expired.

    \b
    Examples:
      axoneme fqdn cache list
      axoneme fqdn cache list --endpoint shop/web --matchpattern '*.example.com'
    """
    from axoneme.api.fqdn.v1 import fqdn_pb2 as pb

    numbers = {word: number for number, word in SOURCES.items()}
    rows: list[tuple[object, ...]] = []
    found: list[dict[str, Any]] = []
    for name, endpoint_id in places_of(client, node_name, endpoint):
        request = pb.ListCacheRequest(
            endpoint_id=endpoint_id or 0,
            match_pattern=matchpattern,
            cidr=cidr,
            source=pb.LookupSource.ValueType(numbers.get(source, 0)),
            page_size=1_000,
        )
        for entry in _pages(client.fqdn(name).ListCache, request, "entries"):
            found.append(message_dict(entry))
            rows.append(_cache_row(name, entry))
    if output == "json":
        print_json(found)
    else:
        headers = ("node", "endpoint", "source", "fqdn", "ttl", "expirationtime", "ips")
        print_table(headers, rows, empty="no names are known")


def _cache_row(node: str, entry: Any) -> tuple[object, ...]:
    expires = [one.expires.ToJsonString()[:19] + "Z" for one in entry.addresses]
    ips = [one.address for one in entry.addresses]
    source = SOURCES.get(entry.source, "-")
    return node, entry.endpoint_id, source, entry.name, entry.ttl.seconds, max(expires, default=""), ips


@cache.command("clean")
@_matching
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@node_option("Only this node; default: all of the context.")
@output_option
@connected
def cache_clean(
    client: Client, endpoint: str, matchpattern: str, force: bool, node_name: str, output: str
) -> None:
    """Forget names: their addresses need a new lookup, open connections go on.

    \b
    Example:
      axoneme fqdn cache clean --matchpattern '*.example.com'
    """
    from axoneme.api.fqdn.v1 import fqdn_pb2 as pb

    places = places_of(client, node_name, endpoint)
    if not force:
        nodes = ", ".join(sorted({name for name, _ in places}))
        click.confirm(f"Forget {matchpattern or 'all names'} on {nodes}?", abort=True, err=True)
    removed = {}
    for name, endpoint_id in places:
        request = pb.CleanCacheRequest(endpoint_id=endpoint_id or 0, match_pattern=matchpattern)
        removed[name] = client.fqdn(name).CleanCache(request).removed
    if output == "json":
        print_json(removed)
    else:
        print_table(("node", "removed"), removed.items())


@fqdn.command()
@node_option("Only this node; default: all of the context.")
@output_option
@connected
def names(client: Client, node_name: str, output: str) -> None:
    """List the DNS selectors of policies with the names that they match now.

    \b
    Example:
      axoneme fqdn names
    """
    from axoneme.api.fqdn.v1 import fqdn_pb2 as pb

    found: list[tuple[str, Any]] = [
        (name, one)
        for name in nodes_of(client, node_name)
        for one in _pages(
            client.fqdn(name).ListSelectors, pb.ListSelectorsRequest(page_size=1_000), "selectors"
        )
    ]
    if output == "json":
        print_json([{"node": name, **message_dict(one)} for name, one in found])
        return
    rows = [
        (
            name,
            one.selector.text,
            "pattern" if one.selector.pattern else "name",
            one.name_count,
            list(one.identities),
            list(one.names),
        )
        for name, one in found
    ]
    print_table(
        ("node", "selector", "kind", "count", "identities", "names"), rows, empty="no policy selects by name"
    )


@fqdn.command()
@click.option("--identity", type=int, default=0, metavar="NUMBER", help="Only this subject.")
@node_option("Only this node; default: all of the context.")
@output_option
@connected
def rules(client: Client, identity: int, node_name: str, output: str) -> None:
    """List the rules by which queries are judged.

    \b
    Examples:
      axoneme fqdn rules
      axoneme fqdn rules --identity 4711
    """
    from axoneme.api.fqdn.v1 import fqdn_pb2 as pb

    request = pb.ListRulesRequest(page_size=1_000)
    if identity:
        request.subject.identity = identity
    found = [
        (name, one)
        for name in nodes_of(client, node_name)
        for one in _pages(client.fqdn(name).ListRules, request, "rules")
    ]
    if output == "json":
        print_json([{"node": name, **message_dict(one)} for name, one in found])
        return
    rows = [(name, _subject(one.subject), *_rule_row(rule)) for name, one in found for rule in one.rules]
    headers = ("node", "subject", "server", "protocol", "port", "level", "names")
    print_table(headers, sorted(rows, key=str), empty="no DNS rules are known")


def _subject(subject: Any) -> str:
    return subject.host_of_node or str(subject.identity)


def _rule_row(rule: Any) -> tuple[object, ...]:
    kind = rule.server.WhichOneof("kind")
    server = "any" if kind in (None, "any") else str(getattr(rule.server, kind)).strip()
    protocol = {6: "TCP", 17: "UDP"}.get(rule.protocol, "any")
    port = str(rule.port) if rule.prefix_length == 16 else f"{rule.port}/{rule.prefix_length}"
    asked = ["every name"] if rule.every_name else sorted(name.text for name in rule.names)
    return server, protocol, port, rule.level, asked


@fqdn.command()
@node_option("The node; default: the only one of the context.")
@output_option
@connected
def status(client: Client, node_name: str, output: str) -> None:
    """Say whether the proxy works, and what does not.

    \b
    Example:
      axoneme fqdn status --node node1
    """
    from axoneme.api.fqdn.v1 import fqdn_pb2 as pb

    name = one_node(client, node_name)
    answer = client.fqdn(name).GetStatus(pb.GetStatusRequest())
    if output == "json":
        print_json(answer)
    else:
        queries = ", ".join(f"{count} {word}" for word, count in sorted(answer.queries.items()))
        print_table(
            ("item", "state"),
            [
                ("port", answer.proxy_port),
                ("policy service", "connected" if answer.rules_connected else "not connected"),
                ("shim", "connected" if answer.shim_connected else "not connected"),
                ("names", answer.names),
                ("addresses", answer.addresses),
                ("queries", queries),
                ("version", answer.version),
            ],
        )
    for problem in answer.problems:
        click.echo(f"problem: {problem}", err=True)
    if answer.problems:
        raise click.exceptions.Exit(1)


def _pages(method: Callable[..., Any], request: Any, field: str) -> Iterator[Any]:
    def fetch(token: str) -> Any:
        request.page_token = token
        return method(request)

    return pages(fetch, field)
