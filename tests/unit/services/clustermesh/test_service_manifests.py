"""Manifests: Kubernetes' Service and EndpointSlice, the API's own form, with lines in every fault."""

from __future__ import annotations

import textwrap

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.cli.render import message_dict
from axoneme.lib.errors import InvalidArgument, NotFound
from services.clustermesh.manifests.document import MAX_BYTES
from services.clustermesh.manifests.manifest import Manifest, read_manifest

FULL = """
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  labels: {team: x}
  uid: 5a3b
  annotations:
    service.cilium.io/lb-algorithm: maglev
    service.cilium.io/forwarding-mode: dsr
    lbipam.cilium.io/ips: "198.51.100.8, 2001:db8::8"
    example.com/other: "1"
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, "fd00:96::7"]
  ipFamilyPolicy: PreferDualStack
  externalIPs: [198.51.100.7]
  loadBalancerSourceRanges: [192.0.2.0/24]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  externalTrafficPolicy: Local
  internalTrafficPolicy: Cluster
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353, appProtocol: dns}
status:
  loadBalancer: {ingress: [{ip: 192.0.2.1}]}
"""


def nothing(namespace: str, name: str) -> pb.Service:
    raise NotFound(f"service {namespace}/{name} does not exist", reason="SERVICE_NOT_FOUND")


def read(text: str) -> Manifest:
    return read_manifest(textwrap.dedent(text), "default", nothing)


def faults_of(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidArgument) as caught:
        read(text)
    return [tuple(violation) for violation in caught.value.violations]


def test_everything_of_a_kubernetes_service() -> None:
    found = read(FULL)
    assert found.warnings == []
    (made,) = found.services
    assert made == pb.Service(
        namespace="shop",
        name="web",
        labels={"team": "x"},
        type=pb.SERVICE_TYPE_LOAD_BALANCER,
        cluster_ips=["10.96.0.7", "fd00:96::7"],
        external_ips=["198.51.100.7"],
        load_balancer_ips=["198.51.100.8", "2001:db8::8"],
        load_balancer_source_ranges=pb.SourceRanges(cidrs=["192.0.2.0/24"]),
        ports=[
            pb.ServicePort(name="http", protocol=6, port=80, target_port_name="web", node_port=30080),
            pb.ServicePort(name="dns", protocol=17, port=53, target_port=5353),
        ],
        source=pb.BackendSource(selector=pb.LabelMatch(match_labels={"app": "web"})),
        external_traffic_policy=pb.TRAFFIC_POLICY_LOCAL,
        internal_traffic_policy=pb.TRAFFIC_POLICY_CLUSTER,
        session_affinity=pb.SessionAffinity(timeout_seconds=60),
        algorithm=pb.ALGORITHM_MAGLEV,
        forwarding_mode=pb.FORWARDING_MODE_DSR,
    )


def test_json_lists_and_the_least() -> None:
    item = (
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "%s"}, "spec": {"ports": [{"port":1}]}}'
    )
    items = f"[{item % 'a'},\t{item % 'b'}]"
    found = read(f'{{"apiVersion": "v1", "kind": "List", "items": {items}}}')
    assert [(one.namespace, one.name) for one in found.services] == [("default", "a"), ("default", "b")]
    assert found.services[0].ports[0].protocol == pb.PROTOCOL_TCP


def test_headless_and_affinity_defaults() -> None:
    made = read(
        """\
        kind: Service
        metadata: {name: web}
        spec:
          clusterIP: None
          sessionAffinity: ClientIP
        """
    ).services[0]
    assert made.headless
    assert not made.cluster_ips
    assert made.session_affinity.timeout_seconds == 10_800


def test_unknown_fields_are_warnings() -> None:
    found = read(
        """\
        apiVersion: v1
        kind: Service
        metadata: {name: web, annotations: {service.cilium.io/global: "true"}}
        spec:
          selektor: {app: web}
          loadBalancerIP: 198.51.100.9
          ports:
          - port: 80
            target: 8080
        extra: 1
        """
    )
    assert found.warnings == [
        "line 3: metadata.annotations.service.cilium.io/global: is not acted on",
        "line 9: spec.ports[0].target: is not known and left out",
        "line 6: spec.loadBalancerIP: is ignored; name the addresses in the annotation lbipam.cilium.io/ips",
        "line 5: spec.selektor: is not known and left out",
        "line 10: extra: is not known and left out",
    ]
    assert not found.services[0].load_balancer_ips


def test_wrong_fields_are_faults_with_their_lines() -> None:
    found = faults_of(
        """\
        apiVersion: v2
        kind: Service
        metadata:
          labels: [a]
        spec:
          type: External
          clusterIPs: 10.96.0.1
          selector: {app: 1}
          sessionAffinity: Cookie
          publishNotReadyAddresses: maybe
          ports:
          - port: eighty
          - protocol: ICMP
            port: 1
          - targetPort: 1
        """
    )
    assert [(field, text.partition(":")[0]) for field, text in found] == [
        ("apiVersion", "line 1"),
        ("metadata", "line 4"),
        ("metadata.labels", "line 4"),
        ("spec.type", "line 6"),
        ("spec.ports[0].port", "line 12"),
        ("spec.ports[1].protocol", "line 13"),
        ("spec.ports[2]", "line 15"),
        ("spec.clusterIPs", "line 7"),
        ("spec.selector.app", "line 8"),
        ("spec.sessionAffinity", "line 9"),
        ("spec.publishNotReadyAddresses", "line 10"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "line 2: not valid YAML"),
        ("a: &x 1\nb: *x\n", "line 1: an alias"),
        ("a: 1\na: 2\n", "line 2: the key 'a' is repeated"),
        ("? [a]\n: 1\n", "line 1: a key must be a text"),
        ("a: !!python/object:os.system {}\n", "line 1: the tag"),
        ("kind: Pod\napiVersion: v1\n", "line 1: 'Pod' is not known here"),
        ("apiVersion: v1\n", "'None' is not known here"),
        ("- a\n", "a document is a mapping"),
        ("{" * 30 + "}" * 30, "line 1"),
        ("kind: Service\nmetadata: {name: a}\nspec: {type: ExternalName}\n", "no addresses"),
        (
            "kind: Service\nmetadata: {name: a}\nspec: {clusterIP: fd00::1, clusterIPs: [fd00::2]}\n",
            "the first",
        ),
    ],
)
def test_refused_texts(text: str, reason: str) -> None:
    assert any(reason in f"{found}" for _, found in faults_of(text))


def test_a_large_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="split it"):
        read("#" * (MAX_BYTES + 1))


def test_our_own_form_comes_back() -> None:
    made = read(FULL).services[0]
    made.backends.add(ip="10.0.0.1")
    made.revision = 7
    import json

    found = read(json.dumps(message_dict(made)))
    del made.backends[:]
    made.revision = 0
    assert found.services == [made]
    assert not found.warnings


def test_our_own_form_has_faults_and_warnings_too() -> None:
    found = read("name: web\nports:\n- port: 80\n  protocl: PROTOCOL_UDP\nbackends: null\n")
    assert found.warnings == ["line 4: ports[0].protocl: is not known and left out"]
    assert found.services[0].namespace == "default"
    (fault,) = faults_of("name: web\n---\nname: other\ntype: NodePort\n")
    assert "line 3" in fault[1]


SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {kubernetes.io/service-name: web}
addressType: IPv6
ports:
- {name: http, port: 8080}
endpoints:
- {addresses: ["fd00::1"], nodeName: n1, conditions: {ready: true}}
- {addresses: ["fd00::2"], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: ["fd00::3"], conditions: {ready: false}}
"""
SERVICE = """\
kind: Service
metadata: {name: web}
spec:
  ports:
  - {name: http, port: 80}
"""


def test_slices_are_the_backends_of_their_service() -> None:
    found = read(f"{SERVICE}---\n{SLICE}---\n{SLICE.replace('IPv6', 'IPv4').replace('fd00::', '10.0.0.')}")
    (made,) = found.services
    assert [
        (one.ip, one.state, one.node_name, dict(one.ports)) for one in made.source.addresses.backends
    ] == [
        (f"{prefix}{number}", number, node, {"http": 8080})
        for prefix in ("fd00::", "10.0.0.")
        for number, node in ((pb.BACKEND_STATE_ACTIVE, "n1"), (pb.BACKEND_STATE_TERMINATING, ""))
    ]
    assert [text.partition(":")[0] for text in found.warnings] == ["line 18", "line 31"]


def test_slices_alone_change_the_stored_service() -> None:
    stored = pb.Service(
        namespace="default",
        name="web",
        ports=[pb.ServicePort(name="http", port=80, target_port=8080)],
        source=pb.BackendSource(addresses=pb.BackendList(backends=[pb.Backend(ip="10.9.9.9")])),
        revision=12,
    )
    found = read_manifest(SLICE, "default", lambda namespace, name: stored)
    (made,) = found.services
    assert [one.ip for one in made.source.addresses.backends] == ["fd00::1", "fd00::2"]
    assert not made.source.addresses.backends[0].ports
    assert found.known == {("default", "web"): 12}
    assert len(stored.source.addresses.backends) == 1
    with pytest.raises(NotFound):
        read(SLICE)


def test_slices_of_a_selecting_service_are_refused() -> None:
    (fault,) = faults_of(f"{SERVICE}  selector: {{app: web}}\n---\n{SLICE}")
    assert "has a selector" in fault[1]
    found = faults_of(SLICE.replace("IPv6", "FQDN").replace("service-name", "name"))
    assert [field for field, _ in found] == ["metadata", ""]
