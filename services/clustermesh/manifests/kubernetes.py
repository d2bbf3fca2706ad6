"""Kubernetes' `v1` Service into a Service of the API, every fault with its line.

What only Kubernetes itself acts on is left out: silently where nothing is lost by it, else with a warning.
"""

from __future__ import annotations

from typing import Final

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from services.clustermesh.manifests.document import Fields, Place, Report

TYPES: Final = {
    "ClusterIP": pb.SERVICE_TYPE_CLUSTER_IP,
    "NodePort": pb.SERVICE_TYPE_NODE_PORT,
    "LoadBalancer": pb.SERVICE_TYPE_LOAD_BALANCER,
}
PROTOCOLS: Final = {"TCP": pb.PROTOCOL_TCP, "UDP": pb.PROTOCOL_UDP, "SCTP": pb.PROTOCOL_SCTP}
_POLICIES: Final = {"Cluster": pb.TRAFFIC_POLICY_CLUSTER, "Local": pb.TRAFFIC_POLICY_LOCAL}
_ALGORITHMS: Final = {"random": pb.ALGORITHM_RANDOM, "maglev": pb.ALGORITHM_MAGLEV}
_MODES: Final = {"snat": pb.FORWARDING_MODE_SNAT, "dsr": pb.FORWARDING_MODE_DSR}
ALGORITHM: Final = "service.cilium.io/lb-algorithm"
MODE: Final = "service.cilium.io/forwarding-mode"
BALANCER_IPS: Final = "lbipam.cilium.io/ips"
AFFINITY_SECONDS: Final = 10_800
"""Kubernetes' own default."""
_META: Final = (
    "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields",
    "ownerReferences", "finalizers", "generateName", "selfLink",
)  # fmt: skip
_NO_EFFECT: Final = (
    "ipFamilyPolicy",
    "allocateLoadBalancerNodePorts",
    "loadBalancerClass",
    "trafficDistribution",
)


def service_of(place: Place, namespace: str, report: Report) -> pb.Service:
    """The service of a document; `namespace` is for one that names none."""
    top = Fields(place, report)
    top.text("apiVersion", ("v1",))
    top.text("kind")
    made = pb.Service(namespace=namespace)
    _read_metadata(top.fields("metadata"), made)
    _read_spec(top.fields("spec"), made, report)
    _warn(top.rest(("status",)), report)
    return made


def _read_metadata(meta: Fields, made: pb.Service) -> None:
    made.name = meta.text("name")
    if not made.name:
        meta.report.fault(meta.place, "names no service; add name")
    made.namespace = meta.text("namespace") or made.namespace
    made.labels.update(meta.words("labels"))
    notes = meta.fields("annotations")
    algorithm = notes.text(ALGORITHM, _ALGORITHMS)
    mode = notes.text(MODE, _MODES)
    made.algorithm = _ALGORITHMS.get(algorithm, pb.ALGORITHM_UNSPECIFIED)
    made.forwarding_mode = _MODES.get(mode, pb.FORWARDING_MODE_UNSPECIFIED)
    addresses = notes.text(BALANCER_IPS).split(",")
    made.load_balancer_ips.extend(one.strip() for one in addresses if one.strip())
    for place in notes.rest():
        if ".cilium.io/" in place.path or place.path.rpartition(".")[2].startswith("io.cilium/"):
            meta.report.warn(place, "is not acted on")
    _warn(meta.rest(_META), meta.report)


def _read_spec(spec: Fields, made: pb.Service, report: Report) -> None:
    kind = spec.text("type", (*TYPES, "ExternalName"), "ClusterIP")
    if kind == "ExternalName":
        report.fault(
            spec.place, "type ExternalName is a name in DNS and has no addresses; nothing to balance"
        )
    made.type = TYPES.get(kind, pb.SERVICE_TYPE_CLUSTER_IP)
    made.ports.extend(_port(Fields(one, report)) for one in spec.items("ports"))
    _read_addresses(spec, made, report)
    selector = spec.words("selector")
    if selector:
        made.source.selector.match_labels.update(selector)
    _read_affinity(spec, made)
    made.external_traffic_policy = _policy(spec, "externalTrafficPolicy")
    made.internal_traffic_policy = _policy(spec, "internalTrafficPolicy")
    if spec.flag("publishNotReadyAddresses"):
        report.warn(spec.place, "publishNotReadyAddresses has no effect; every running workload is a backend")
    for name in (*_NO_EFFECT, "loadBalancerIP", "ipFamilies", "healthCheckNodePort", "externalName"):
        place = spec.place_of(name)
        if place is not None and name not in _NO_EFFECT:
            report.warn(place, _IGNORED[name])
    _warn(spec.rest(), report)


_IGNORED: Final = {
    "loadBalancerIP": f"is ignored; name the addresses in the annotation {BALANCER_IPS}",
    "ipFamilies": "is ignored; cluster IPs of every family of service_cidrs are allocated",
    "healthCheckNodePort": "is ignored; there is no such port",
    "externalName": "is ignored",
}


def _read_addresses(spec: Fields, made: pb.Service, report: Report) -> None:
    single, several = spec.text("clusterIP"), spec.texts("clusterIPs")
    addresses = several or ([single] if single else [])
    if single and several and several[0] != single:
        report.fault(spec.place, "clusterIP must be the first of clusterIPs")
    made.headless = addresses == ["None"]
    if not made.headless:
        made.cluster_ips.extend(addresses)
    made.external_ips.extend(spec.texts("externalIPs"))
    ranges = spec.texts("loadBalancerSourceRanges")
    if ranges:  # Kubernetes reads an empty list as if it were absent
        made.load_balancer_source_ranges.cidrs.extend(one.strip() for one in ranges)


def _read_affinity(spec: Fields, made: pb.Service) -> None:
    affinity = spec.text("sessionAffinity", ("None", "ClientIP"), "None")
    settings = spec.fields("sessionAffinityConfig").fields("clientIP")
    seconds = settings.number("timeoutSeconds")
    if affinity == "ClientIP":
        made.session_affinity.timeout_seconds = seconds or AFFINITY_SECONDS


def _policy(spec: Fields, name: str) -> pb.TrafficPolicy.ValueType:
    return _POLICIES.get(spec.text(name, _POLICIES), pb.TRAFFIC_POLICY_UNSPECIFIED)


def _port(fields: Fields) -> pb.ServicePort:
    made = pb.ServicePort(
        name=fields.text("name"),
        protocol=PROTOCOLS[fields.text("protocol", PROTOCOLS, "TCP")],
        port=fields.number("port"),
        node_port=fields.number("nodePort"),
    )
    if fields.place_of("port") is None:
        fields.report.fault(fields.place, "has no port; add it")
    target = fields.place_of("targetPort")
    if target is not None and isinstance(target.value, str):
        made.target_port_name = target.value
    elif target is not None:
        made.target_port = fields.number("targetPort")
    _warn(fields.rest(("appProtocol",)), fields.report)
    return made


def _warn(places: object, report: Report) -> None:
    for place in places:  # type: ignore[attr-defined]
        report.warn(place, "is not known and left out")
