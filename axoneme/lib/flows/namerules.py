"""Filter fields that look at names: pods, services, workloads, DNS names, labels, clusters, nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.labelselector import index_labels, parse_selector
from axoneme.lib.flows.regexes import glob_of
from axoneme.lib.flows.rule import Predicate, Rule, Side


def _split_name(where: str, text: str) -> tuple[str | None, str]:
    """Split `[namespace/]prefix`: no slash means namespace default, an empty namespace means any."""
    if not text:
        raise InvalidArgument.of_field(where, "empty name; use [namespace/]prefix, namespace/ or /prefix")
    namespace, slash, prefix = text.partition("/")
    if not slash:
        return "default", text
    return namespace or None, prefix


def _named(wanted: tuple[str | None, str], namespace: str, name: str) -> bool:
    wanted_namespace, prefix = wanted
    if wanted_namespace is None and not prefix:
        return bool(namespace or name)
    if wanted_namespace is not None and namespace != wanted_namespace:
        return False
    return name.startswith(prefix)


def pod(side: Side) -> Rule:
    """The pod as [namespace/]prefix."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        wanted = [_split_name(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            end = getattr(flow, side)
            return any(_named(one, end.namespace, end.pod_name) for one in wanted)

        return predicate

    return rule


def service(side: Side) -> Rule:
    """The service as [namespace/]prefix."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        wanted = [_split_name(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            if not flow.HasField(f"{side}_service"):  # type: ignore[arg-type]
                return False
            service = getattr(flow, f"{side}_service")
            return any(_named(one, service.namespace, service.name) for one in wanted)

        return predicate

    return rule


def workload(side: Side) -> Rule:
    """An owner of the pod by kind, name or both."""

    def rule(_: str, values: Sequence[flow_pb2.Workload]) -> Predicate:
        wanted = [(value.kind, value.name) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            return any(
                (not kind or workload.kind == kind) and (not name or workload.name == name)
                for workload in getattr(flow, side).workloads
                for kind, name in wanted
            )

        return predicate

    return rule


def fqdn(side: Side) -> Rule:
    """A name under which the end is known; * stands for any characters of a name."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        patterns = [_fqdn_pattern(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            names = [name.lower().removesuffix(".") for name in getattr(flow, f"{side}_names")]
            return any(fits(name) for fits in patterns for name in names)

        return predicate

    return rule


def _fqdn_pattern(where: str, text: str) -> Callable[[str], bool]:
    name = text.strip().lower().removesuffix(".")
    if not re.fullmatch(r"[-.0-9a-z_*]+", name):
        raise InvalidArgument.of_field(where, f"{text!r} is not a DNS name or a pattern with *")
    return glob_of(where, name, "-.0-9a-z_")


def label(side: Side) -> Rule:
    """A label selector over the labels of the end."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        selectors = [parse_selector(value, where) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            labels = index_labels(getattr(flow, side).labels)
            return any(selector(labels) for selector in selectors)

        return predicate

    return rule


def node_labels(where: str, values: Sequence[str]) -> Predicate:
    """A label selector over the labels of the node."""
    selectors = [parse_selector(value, where) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        labels = index_labels(flow.node_labels)
        return any(selector(labels) for selector in selectors)

    return predicate


def identity(side: Side) -> Rule:
    """The identity of the end, which the flow must name."""

    def rule(_: str, values: Sequence[int]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: flow.HasField(side) and getattr(flow, side).identity in wanted

    return rule


def cluster(side: Side) -> Rule:
    """The cluster of the end, exactly."""

    def rule(_: str, values: Sequence[str]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: getattr(flow, side).cluster_name in wanted

    return rule


def node_name(where: str, values: Sequence[str]) -> Predicate:
    """The node as [cluster/]node; * stands for any characters."""
    patterns = [_node_pattern(where, value) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        name = flow.node_name if "/" in flow.node_name else f"default/{flow.node_name}"
        return any(fits(name) for fits in patterns)

    return predicate


def _node_pattern(where: str, text: str) -> Callable[[str], bool]:
    if not re.fullmatch(r"[-.0-9A-Za-z_*]*(/[-.0-9A-Za-z_*]*)?", text) or not text:
        raise InvalidArgument.of_field(where, f"{text!r} is not [cluster/]node with * as wildcard")
    cluster, slash, node = text.partition("/")
    if not slash:
        cluster, node = "*", text
    return glob_of(where, f"{cluster or '*'}/{node or '*'}", "-.0-9A-Za-z_")
