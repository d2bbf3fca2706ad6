"""Words for messages of the policy API on the terminal: verdicts, actions, ports, rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.policy.commands.partytext import protocol_name

if TYPE_CHECKING:
    from axoneme.api.policy.v1 import policy_pb2 as pb

VERDICTS: Final = {1: "allow", 2: "deny", 3: "redirect", 4: "audit", 5: "error"}
ACTIONS: Final = {1: "allow", 2: "deny", 3: "redirect", 4: "pass"}
AUTH_MODES: Final = {1: "disabled", 2: "required", 3: "always fails"}
DIRECTIONS: Final = {1: "ingress", 2: "egress"}


def ports_text(ports: pb.PortMatch) -> str:
    """`80/TCP`, `8080-8083/TCP`, `any port/UDP`, `any port`."""
    kind = ports.WhichOneof("kind")
    if kind == "named":
        return f"{ports.named.name}/{protocol_name(ports.named.protocol)}"
    if kind != "ports":
        return "any port"
    one = ports.ports
    last = one.port + (1 << (16 - one.prefix_length)) - 1
    if one.prefix_length == 0:
        return f"any port/{protocol_name(one.protocol)}"
    text = str(one.port) if last == one.port else f"{one.port}-{last}"
    return f"{text}/{protocol_name(one.protocol)}"


def policy_text(name: pb.PolicyName) -> str:
    """`CiliumNetworkPolicy default/web`."""
    full = f"{name.namespace}/{name.name}" if name.namespace else name.name
    return f"{name.kind} {full}"


def rule_text(rule: pb.RuleReference) -> str:
    """`spec.ingress[0] of CiliumNetworkPolicy default/web (allow)`."""
    where = f"{rule.rule} of " if rule.rule else ""
    return f"{where}{policy_text(rule.policy)} ({ACTIONS.get(rule.action, 'unknown')})"
