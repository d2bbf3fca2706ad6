"""Reading references to services (toServices)."""

from __future__ import annotations

from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.selectorfields import read_selector
from services.policy.rules import ServicePeer


def read_service(node: Node, reading: Reading) -> ServicePeer | None:
    """An element of toServices: a service by name, or services by their labels."""
    fields = reading.fields
    present = fields.mapping(node, ("k8sService", "k8sServiceSelector"))
    kind = fields.only_one(node, present, ("k8sService", "k8sServiceSelector"))
    if kind is None:
        return None
    return _by_name(present[kind], reading) if kind == "k8sService" else _by_labels(present[kind], reading)


def _by_name(node: Node, reading: Reading) -> ServicePeer | None:
    fields = reading.fields
    present = fields.mapping(node, ("serviceName", "namespace"))
    name = fields.name(present["serviceName"]) if "serviceName" in present else None
    if "serviceName" not in present and node.mapping is not None:
        fields.fault(node, "the service has no name", "give it serviceName, or use k8sServiceSelector")
    namespace = reading.namespace
    if "namespace" in present:
        namespace = fields.namespace(present["namespace"]) or ""
    elif not namespace and node.mapping is not None:
        fields.fault(node, "the service has no namespace", "a cluster-wide policy has to name it")
    return ServicePeer(namespace=namespace, name=name) if name and namespace else None


def _by_labels(node: Node, reading: Reading) -> ServicePeer | None:
    """Without a namespace the services of every namespace are meant."""
    fields = reading.fields
    present = fields.mapping(node, ("selector", "namespace"))
    namespace = fields.namespace(present["namespace"]) if "namespace" in present else ""
    if "selector" not in present:
        if node.mapping is not None:
            fields.fault(node, "the services have no selector", "`selector: {}` is every service")
        return None
    selector = read_selector(present["selector"], fields)
    return None if namespace is None else ServicePeer(namespace=namespace, selector=selector)
