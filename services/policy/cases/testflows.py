"""Cases that name single flows: endpoints of every kind, settings, inputs, and a verdict for each side.

One function a part; every key that is not known is a fault with its path and line. What is absent has the
default of a cluster: name `default`, both families, the local host may reach pods, no host firewall.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from axoneme.lib import dnsnames
from axoneme.lib.policy.model import AuthMode, Direction
from services.policy.cases.testcase import OUTSIDE, Case, Endpoint, Flow, Kind
from services.policy.cases.testfields import (
    address,
    addresses,
    children,
    elements,
    one_of,
    prefixes,
    protocol,
    string_mapping,
    switch,
    text_or,
)
from services.policy.cases.testrequests import read_requests
from services.policy.inputs import CidrGroup, CloudGroup, EnforcementMode, PolicySettings, Service
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.rules import PolicyKey

FLOW_KEYS: Final = frozenset({"endpoints", "flows", "config"})
_INPUTS: Final = ("services", "cidrGroups", "extGroups", "fqdnCache")
_KEYS: Final = ("id", "name", "policies", "expectLoadError", *_INPUTS, *FLOW_KEYS)
_REMARKS: Final = ("group", "oracle", "description", "tags", "difference")
_CONFIG: Final = (
    "clusterName",
    "policyEnforcement",
    "allowLocalhost",
    "ipv4",
    "ipv6",
    "policyCIDRMatchMode",
    "policyDefaultLocalCluster",
    "nodeSelectorLabels",
    "hostFirewall",
)
_ENDPOINT: Final = (
    "kind",
    "namespace",
    "labels",
    "namespaceLabels",
    "serviceAccount",
    "cluster",
    "ip",
    "namedPorts",
)
_SIDES: Final = {"egress": Direction.EGRESS, "ingress": Direction.INGRESS}
_DETAILS: Final = ("auth_egress", "auth_ingress", "l7", "matched")
_VERDICTS: Final = ("allow", "deny", "audit", "none", "error")
AUTH_MODES: Final[Mapping[str, AuthMode | None]] = {
    "": None,
    "none": None,
    "spire": AuthMode.REQUIRED,
    "required": AuthMode.REQUIRED,
    "disabled": AuthMode.DISABLED,
    "always-fail": AuthMode.ALWAYS_FAIL,
    "test-always-fail": AuthMode.ALWAYS_FAIL,
}


def read_flow_case(node: Node, default_name: str, fields: Fields) -> Case | None:
    """The case of a node, or None after a fault."""
    before = len(fields.faults)
    found = fields.mapping(node, _KEYS, ignored=_REMARKS)
    endpoints = {
        name: _endpoint(name, child, fields)
        for name, child in children(found.get("endpoints"), fields).items()
    }
    rejected = found.get("expectLoadError")
    listed = rejected is not None and rejected.items is not None
    case = Case(
        name=text_or(found.get("id") or found.get("name"), default_name, fields),
        line=node.line,
        path=node.path,
        settings=_settings(found.get("config"), fields),
        endpoints=endpoints,
        policies=tuple(elements(found.get("policies"), fields)),
        flows=tuple(_flow(one, endpoints, fields) for one in elements(found.get("flows"), fields)),
        services=tuple(_service(one, fields) for one in elements(found.get("services"), fields)),
        cidr_groups=tuple(_cidr_group(one, fields) for one in elements(found.get("cidrGroups"), fields)),
        cloud_groups=_cloud_groups(found.get("extGroups"), fields),
        dns_names=_dns_names(found.get("fqdnCache"), fields),
        rejected=tuple(text_or(one, "", fields) for one in elements(rejected, fields)) if listed else (),
        some_rejected=not listed and switch(rejected, False, fields),
    )
    return case if len(fields.faults) == before else None


def _settings(node: Node | None, fields: Fields) -> PolicySettings:
    found = {} if node is None else fields.mapping(node, _CONFIG)
    mode = one_of(found.get("policyEnforcement"), ("default", "always", "never"), "default", fields)
    localhost = one_of(found.get("allowLocalhost"), ("always", "policy", "auto"), "always", fields)
    modes = elements(found.get("policyCIDRMatchMode"), fields)
    families: dict[str, bool] = {one: switch(found.get(one), True, fields) for one in ("ipv4", "ipv6")}
    if node is not None and not any(families.values()):
        fields.fault(node, "neither ipv4 nor ipv6 is on", "switch at least one of them on")
    return PolicySettings(
        cluster_name=text_or(found.get("clusterName"), "default", fields),
        mode=EnforcementMode(mode),
        allow_localhost=localhost != "policy",
        cidr_match_nodes=[one_of(one, ("nodes",), "", fields) for one in modes] != [],
        default_local_cluster=switch(found.get("policyDefaultLocalCluster"), False, fields),
        node_labels=switch(found.get("nodeSelectorLabels"), False, fields),
        host_firewall=switch(found.get("hostFirewall"), False, fields),
        families=frozenset(one for one in ("ipv4", "ipv6") if families[one]),
    )


def _endpoint(name: str, node: Node, fields: Fields) -> Endpoint:
    found = fields.mapping(node, _ENDPOINT)
    kind = Kind(one_of(found.get("kind"), tuple(Kind), Kind.POD, fields))
    endpoint = Endpoint(
        name=name,
        kind=kind,
        namespace=text_or(found.get("namespace"), "default", fields),
        labels=string_mapping(found.get("labels"), fields),
        namespace_labels=string_mapping(found.get("namespaceLabels"), fields),
        service_account=text_or(found.get("serviceAccount"), "default", fields),
        cluster=text_or(found.get("cluster"), "", fields),
        address=address(found["ip"], fields) if "ip" in found else "",
        named_ports=_named_ports(found.get("namedPorts"), fields),
    )
    if kind in OUTSIDE and "ip" not in found:
        fields.fault(node, f"an endpoint of kind {kind} needs an address", "add ip")
    return endpoint


def _named_ports(node: Node | None, fields: Fields) -> dict[tuple[int, str], int]:
    ports = {}
    for name, child in children(node, fields).items():
        found = fields.mapping(child, ("proto", "port"))
        if "port" not in found:
            fields.fault(child, "a named port needs a number", "write {proto: TCP, port: 80}")
            continue
        number = fields.whole_number(found["port"], 1, 0xFFFF)
        # Names of ports are matched in lower case, as policies are read.
        ports[protocol(found.get("proto"), fields), name.lower()] = number or 0
    return ports


def _flow(node: Node, endpoints: Mapping[str, Endpoint], fields: Fields) -> Flow:
    found = fields.mapping(node, ("from", "to", "proto", "port", "expect", *_DETAILS))
    known = ("egress", "ingress", *_DETAILS)
    expect = fields.mapping(found["expect"], known) if "expect" in found else {}
    details = {name: one for name in _DETAILS if (one := found.get(name) or expect.get(name)) is not None}
    source, target = (_named(found.get(key), key, node, endpoints, fields) for key in ("from", "to"))
    return Flow(
        source=source,
        target=target,
        protocol=protocol(found.get("proto"), fields),
        port=(fields.whole_number(found["port"], 0, 0xFFFF) or 0) if "port" in found else 0,
        verdicts={side: _verdict(expect[name], fields) for name, side in _SIDES.items() if name in expect},
        auth={
            side: _auth(details[f"auth_{name}"], fields)
            for name, side in _SIDES.items()
            if f"auth_{name}" in details
        },
        matched=_matched(details.get("matched"), fields),
        requests=read_requests(details.get("l7"), fields),
        line=node.line,
    )


def _named(node: Node | None, key: str, flow: Node, endpoints: Mapping[str, Endpoint], fields: Fields) -> str:
    if node is None:
        fields.fault(flow, f"a flow needs {key}", "name one of the endpoints")
        return ""
    name = fields.text(node) or ""
    if name not in endpoints:
        fields.fault(node, f"{name!r} is none of the endpoints", "add it, or correct the name")
    return name


def _verdict(node: Node, fields: Fields) -> str:
    text = fields.text(node) or ""
    if text not in _VERDICTS and not text.startswith("redirect:"):
        fix = f"write {', '.join(_VERDICTS)} or redirect:http"
        fields.fault(node, f"{text[:40]!r} is no verdict", fix)
    return text


def _auth(node: Node, fields: Fields) -> AuthMode | None:
    return AUTH_MODES[one_of(node, tuple(AUTH_MODES), "", fields)]


def _matched(node: Node | None, fields: Fields) -> dict[Direction, tuple[str, ...]]:
    found = {} if node is None else fields.mapping(node, tuple(_SIDES))
    return {
        _SIDES[name]: tuple(text_or(one, "", fields) for one in fields.items(child))
        for name, child in found.items()
    }


def _service(node: Node, fields: Fields) -> Service:
    found = fields.mapping(node, ("name", "namespace", "labels", "selector", "backends"))
    if "name" not in found:
        fields.fault(node, "a service needs a name", "add name")
    return Service(
        namespace=text_or(found.get("namespace"), "default", fields),
        name=text_or(found.get("name"), "", fields),
        labels=string_mapping(found.get("labels"), fields),
        selector=string_mapping(found["selector"], fields) if "selector" in found else None,
        backends=addresses(found.get("backends"), fields),
    )


def _cidr_group(node: Node, fields: Fields) -> CidrGroup:
    found = fields.mapping(node, ("name", "labels", "externalCIDRs"))
    if "name" not in found:
        fields.fault(node, "a group needs a name", "add name")
    return CidrGroup(
        key=PolicyKey("CiliumCIDRGroup", "", text_or(found.get("name"), "", fields)),
        labels=string_mapping(found.get("labels"), fields),
        cidrs=prefixes(found.get("externalCIDRs"), fields),
    )


def _cloud_groups(node: Node | None, fields: Fields) -> tuple[CloudGroup, ...]:
    """`{reference: [prefix, ...]}` with the reference as JSON text, or a list of `{group, cidrs}`."""
    pairs: list[tuple[object, Node | None]]
    if node is not None and node.items is not None:
        found = [fields.mapping(one, ("group", "cidrs")) for one in fields.items(node)]
        pairs = [(one["group"].plain(), one.get("cidrs")) for one in found if "group" in one]
    else:
        pairs = [(_reference(key), child) for key, child in children(node, fields).items()]
    return tuple(
        CloudGroup(
            key=PolicyKey("CloudGroup", "", f"group-{index}"),
            reference=json.dumps(reference, sort_keys=True, separators=(",", ":")),
            cidrs=prefixes(cidrs, fields),
        )
        for index, (reference, cidrs) in enumerate(pairs)
    )


def _reference(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dns_names(node: Node | None, fields: Fields) -> dict[str, tuple[str, ...]]:
    found = children(node, fields)
    return {dnsnames.canonical_name(name): addresses(child, fields) for name, child in found.items()}
