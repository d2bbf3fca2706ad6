"""A second reading of the filter rules: plain Python over flows as JSON, field by field, without compiling.

Shares nothing with axoneme/lib/flows. Labels, selectors and patterns are limited to what the tests make.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
_ICMP = {"icmp": {"ICMPv4", "ICMPv6"}, "icmpv4": {"ICMPv4"}, "icmpv6": {"ICMPv6"}}


def wanted(flow: Json, whitelist: list[Json], blacklist: list[Json]) -> bool:
    """Whitelist minus blacklist; an empty whitelist is everything."""
    if whitelist and not any(takes(one, flow) for one in whitelist):
        return False
    return not any(takes(one, flow) for one in blacklist)


def takes(flow_filter: Json, flow: Json) -> bool:
    """All fields of a filter, any value of a field."""
    for field, values in flow_filter.items():
        if field == "experimental":
            continue  # other tests compare expressions with fields
        if not any(holds(field, value, flow) for value in values):
            return False
    return True


def holds(field: str, value: Any, flow: Json) -> bool:
    side, _, what = field.partition("_")
    if side in ("source", "destination"):
        return _end(side, what, value, flow)
    ip, event = flow.get("IP", {}), flow.get("event_type", {})
    if field in ("uuid", "verdict", "traffic_direction"):
        default = {"verdict": "VERDICT_UNKNOWN", "traffic_direction": "TRAFFIC_DIRECTION_UNKNOWN"}.get(
            field, ""
        )
        return bool(flow.get(field, default) == value)
    if field == "drop_reason_desc":
        reason = flow.get("drop_reason_desc", "DROP_REASON_UNKNOWN")
        return flow.get("verdict") == "DROPPED" and reason == value
    if field == "interface":
        if "interface" not in flow:
            return False
        own = flow["interface"]
        same_index = not value.get("index") or own.get("index", 0) == value["index"]
        return same_index and (not value.get("name") or own.get("name", "") == value["name"])
    if field == "event_type":
        if event.get("type", 0) != value.get("type", 0):
            return False
        return not value.get("match_sub_type") or event.get("sub_type", 0) == value.get("sub_type", 0)
    if field == "protocol":
        name = value.lower()
        layer4, layer7 = set(flow.get("l4", {})), set(flow.get("l7", {}))
        return bool(layer4 & _ICMP.get(name, {name.upper()})) or name in layer7
    if field == "reply":
        if "is_reply" in flow:
            return bool(flow["is_reply"] == value)
        return flow.get("verdict") == "DROPPED" and not value
    if field == "tcp_flags":
        flags = flow.get("l4", {}).get("TCP", {}).get("flags")
        return flags is not None and all(flags.get(name) for name, on in value.items() if on)
    if field == "node_name":
        return _node(value, flow.get("node_name", ""))
    if field == "node_labels":
        return _selected(value, flow.get("node_labels", []))
    if field == "ip_version":
        return bool(ip.get("ipVersion", "IP_NOT_USED") == value)
    if field == "trace_id":
        return bool(flow.get("trace_context", {}).get("parent", {}).get("trace_id", "") == value)
    if field == "ip_trace_id":
        return int(flow.get("ip_trace_id", {}).get("trace_id", 0)) == int(value)
    if field == "encrypted":
        return bool(ip.get("encrypted", False)) == value
    return _layer7(field, value, flow.get("l7", {}))


def _end(side: str, what: str, value: Any, flow: Json) -> bool:
    end, ip = flow.get(side, {}), flow.get("IP", {})
    if what in ("ip", "ip_xlated"):
        return _address(value, ip.get(f"{side}_xlated" if what == "ip_xlated" else side, ""))
    if what == "pod":
        return _prefixed(value, end.get("namespace", ""), end.get("pod_name", ""))
    if what == "service":
        service = flow.get(f"{side}_service")
        return service is not None and _prefixed(value, service.get("namespace", ""), service.get("name", ""))
    if what == "fqdn":
        pattern = re.escape(value.lower().rstrip(".")).replace(r"\*", "[-.0-9a-z_]*")
        names = [name.lower().rstrip(".") for name in flow.get(f"{side}_names", [])]
        return any(re.fullmatch(pattern, name) for name in names)
    if what == "label":
        return _selected(value, end.get("labels", []))
    if what == "workload":
        return any(
            all(not value.get(key) or own.get(key, "") == value[key] for key in ("kind", "name"))
            for own in end.get("workloads", [])
        )
    if what == "cluster_name":
        return bool(end.get("cluster_name", "") == value)
    if what == "identity":
        return side in flow and end.get("identity", 0) == value
    assert what == "port", what
    layer4 = flow.get("l4", {})
    ports = [layer4[name].get(f"{side}_port", 0) for name in ("TCP", "UDP", "SCTP") if name in layer4]
    return int(value) in ports


def _layer7(field: str, value: Any, layer7: Json) -> bool:
    if field == "dns_query":
        return "dns" in layer7 and re.search(value, layer7["dns"].get("query", "")) is not None
    if "http" not in layer7:
        return False
    http = layer7["http"]
    if field == "http_status_code":
        code = str(http.get("code", 0))
        return code != "0" and (code.startswith(value[:-1]) if value.endswith("+") else code == value)
    if field == "http_method":
        return bool(http.get("method", "").lower() == value.lower())
    if field == "http_url":
        return re.search(value, http.get("url", "")) is not None
    if field == "http_path":
        return re.search(value, urlsplit(http.get("url", "")).path) is not None
    assert field == "http_header", field
    return any(
        (own.get("key", ""), own.get("value", "")) == (value.get("key", ""), value.get("value", ""))
        for own in http.get("headers", [])
    )


def _address(value: str, text: str) -> bool:
    if not text or "/" not in value:
        return text == value
    address, network = ipaddress.ip_address(text), ipaddress.ip_network(value)
    return address.version == network.version and network[0] <= address <= network[-1]


def _prefixed(value: str, namespace: str, name: str) -> bool:
    if value == "/":
        return namespace != "" or name != ""
    space, slash, prefix = value.partition("/")
    if not slash:
        space, prefix = "default", value
    return (space in ("", namespace)) and name[: len(prefix)] == prefix


def _node(value: str, name: str) -> bool:
    full = name if "/" in name else "default/" + name
    if "/" not in value:
        value = "*/" + value
    cluster, _, node = value.partition("/")
    return re.fullmatch(f"{_stars(cluster)}/{_stars(node)}", full) is not None


def _stars(part: str) -> str:
    return "".join(r"[-.\w]*" if letter == "*" else re.escape(letter) for letter in (part or "*"))


def _selected(selector: str, labels: list[str]) -> bool:
    """`key=value`, `key`, `!key`, with or without the source before a colon, joined by commas."""
    return all(_required(part, labels) for part in selector.split(","))


def _required(part: str, labels: list[str]) -> bool:
    if part.startswith("!"):
        return not _required(part[1:], labels)
    key, equals, value = part.partition("=")
    source, colon, bare = key.partition(":")
    for label in labels:
        own, _, own_value = label.partition("=")
        own_source, own_colon, own_bare = own.partition(":")
        name = own_bare if own_colon else own
        fits = name == (bare if colon else key) and (not colon or source in ("any", own_source))
        if fits and (not equals or own_value == value):
            return True
    return False
