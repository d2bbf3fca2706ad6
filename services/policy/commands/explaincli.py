"""`axoneme policy explain`: which rule of which policy decides on a flow, and what would change that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from axoneme.cli.connection import connected
from axoneme.cli.render import output_option, print_json
from services.policy.commands.partytext import parse_party, parse_port, protocol_name
from services.policy.commands.policyview import ACTIONS, AUTH_MODES, VERDICTS, ports_text, rule_text

if TYPE_CHECKING:
    from axoneme.api.policy.v1 import policy_pb2 as pb
    from axoneme.client import Client


@click.command()
@click.option("--from", "source", required=True, metavar="PARTY", help="Sender (see below).")
@click.option("--to", "destination", required=True, metavar="PARTY", help="Receiver.")
@click.option("--port", required=True, metavar="PORT/PROTOCOL", help="443/tcp, 53/udp, 8/icmp, 128/icmpv6.")
@click.option("--dns", "dns_names", multiple=True, metavar="NAME", help="Name the receiver was found under.")
@output_option
@connected
def explain(
    client: Client, source: str, destination: str, port: str, dns_names: tuple[str, ...], output: str
) -> None:
    """Explain the verdict on a flow: the rules that decide, those that lost, and the smallest fix.

    \b
    A PARTY is a pod (namespace/name), an address, labels, or an identity:
      axoneme policy explain --from default/frontend --to default/backend --port 8080/tcp
      axoneme policy explain --from k8s:app=web --to 192.0.2.7 --port 443/tcp --dns www.example.com
      axoneme policy explain --from reserved:host --to fd00::17 --port 128/icmpv6
    """
    from axoneme.api.policy.v1 import policy_pb2

    protocol, number = parse_port(port)
    request = policy_pb2.ExplainFlowRequest(
        source=parse_party(source, "--from"),
        destination=parse_party(destination, "--to"),
        protocol=protocol,
        port=number,
    )
    request.destination.dns_names.extend(dns_names)
    answer = client.policy.ExplainFlow(request)
    if output == "json":
        print_json(answer)
        return
    what = f"{protocol_name(protocol)}/{number}"
    click.echo(f"{source} -> {destination} {what}: {VERDICTS.get(answer.verdict, 'unknown').upper()}")
    for name, party in (("from", answer.source), ("to", answer.destination)):
        click.echo(f"  {name}: {_party(party)}")
    sides = (("egress", "sender", answer.egress), ("ingress", "receiver", answer.ingress))
    for name, side, verdict in sides:
        if verdict.verdict:
            _print_direction(name, verdict)
        else:
            click.echo(f"{name}: the {side} has no policy of its own")


def _party(party: pb.ResolvedParty) -> str:
    number = f"identity {party.identity}" if party.identity else "no identity"
    prefix = f", prefix {party.prefix}" if party.prefix else ""
    return f"{number}{prefix} ({', '.join(party.labels)})"


def _print_direction(name: str, verdict: pb.DirectionVerdict) -> None:
    word = VERDICTS.get(verdict.verdict, "unknown")
    parser = f" to the {verdict.parser} proxy" if verdict.parser else ""
    auth = f", authentication {AUTH_MODES[verdict.auth]}" if verdict.auth in AUTH_MODES else ""
    click.echo(f"{name}: {word}{parser}{auth}: {verdict.reason}")
    if verdict.HasField("entry"):
        entry = verdict.entry
        peer = f"identity {entry.identity}" if entry.identity else "every peer"
        action = ACTIONS.get(entry.action, "unknown")
        click.echo(
            f"  entry: {peer}, {ports_text(entry.ports)}: {action}, precedence {entry.precedence:#010x}"
        )
    _print_rules("decided by", verdict.winners)
    _print_rules("matched and lost", verdict.losers)
    _print_rules("default deny because of", verdict.default_deny)
    if verdict.fix:
        first, _, rest = verdict.fix.partition("\n")
        click.echo(f"  fix: {first}")
        for line in rest.splitlines():
            click.echo(f"    {line}")


def _print_rules(title: str, rules: Iterable[pb.RuleReference]) -> None:
    for rule in rules:
        note = f": {rule.note}" if rule.note else ""
        click.echo(f"  {title}: {rule_text(rule)}{note}")
