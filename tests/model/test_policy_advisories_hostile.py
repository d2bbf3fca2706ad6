"""Advisories about hostile input: whatever users write is taken or refused, and never stops anyone else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.identities import WORLD_IPV6
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction
from axoneme.lib.policycodec import decode_change, encode_change, subject_key
from services.policy import store
from services.policy.inputs import PolicySettings
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_object, parse_objects
from services.policy.resolution.engine import PolicyEngine
from services.policy.rules import ParsedPolicy
from tests.conftest import SOAK, scaled
from tests.model.advisorycases import CLUSTERS, Json, cnp, parsed

RICH: Final[Json] = yaml.safe_load("""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: rich
  namespace: shop
  labels: {team: x}
  annotations:
    policy.axoneme.io/audit: "false"
    policy.cilium.io/proxy-visibility: <Ingress/80/TCP/HTTP>
spec:
  description: text
  labels: ["a=b"]
  endpointSelector: {}
  enableDefaultDeny: {ingress: true}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: a}
      matchExpressions: [{key: b, operator: In, values: [c]}]
    toPorts:
    - ports: [{port: "80", endPort: 90, protocol: TCP}]
      rules: {http: [{method: GET, path: /a, host: a, headers: ["X: y"], headerMatches: [{name: z}]}]}
  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]
    authentication: {mode: required}
  - fromCIDR: ["2001:db8::/32"]
    icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]
  - fromEntities: [cluster]
  - fromNodes: [{matchLabels: {role: edge}}]
  egress:
  - toFQDNs: [{matchPattern: "*.example.org"}]
    toPorts: [{ports: [{port: https}]}]
  - toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchName: a.b}]}}]
  - toServices: [{k8sService: {serviceName: db, namespace: shop}}]
  - toGroups: [{aws: {securityGroupsNames: [x]}}]
  - toPorts: [{ports: [{port: "9", protocol: TCP}], listener: {envoyConfig: {name: c}, name: l, priority: 3}}]
""")


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    yield path
    for key, child in children:
        yield from _leaves(child, (*path, key))


PLACES: Final = [path for path in _leaves(RICH) if path]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.text("<>/:$*[](){}\\.-,=;\x00\x1b\u202e\ud7ff0159aZ", max_size=20),
    st.sampled_from(
        ("", "0", "-1", "65536", "0x10", "::1", "::ffff:1.2.3.4/128", "10.0.0.1", "(", "(?=a)", "*" * 300)
    ),
    st.lists(st.none() | st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=4), st.text(max_size=3), max_size=2),
)


def _with(place: tuple[Any, ...], value: Any, *, key: str | None = None) -> Json:
    found: Json = json.loads(json.dumps(RICH))
    holder: Any = found
    for step in place[:-1]:
        holder = holder[step]
    if key is not None and isinstance(holder, dict):
        holder[key] = value
    else:
        holder[place[-1]] = value
    return found


@settings(max_examples=scaled(250, 20_000), derandomize=not SOAK)
@given(
    place=st.sampled_from(PLACES),
    value=values,
    key=st.none() | st.text(max_size=12),
    cluster=st.sampled_from(CLUSTERS),
)
def test_cve_2023_41332_no_text_of_a_user_stops_the_service(
    place: tuple[Any, ...], value: Any, key: str | None, cluster: str
) -> None:
    """An annotation with an unexpected value crashed the agent, again and again.

    Any value in any place of a policy is refused with a reason that is safe to print, or taken, stored and
    sent to nodes; the policies beside it stay in force.
    """
    text = json.dumps(_with(place, value, key=key))
    try:
        found = parse_objects(text)
    except InvalidPolicy as error:
        answer = [str(error), *(text for one in error.violations for text in one)]
        assert all(map(str.isprintable, answer))
        return
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(1000, workload_labels(["app=web"], namespace="shop", cluster=cluster))
    engine.put_policy(parsed(cnp({"egressDeny": [{"toEntities": ["world"]}]}, name="beside")))
    for one in found:
        assert parse_object(json.loads(store.encode(one))) == one
        if isinstance(one, ParsedPolicy):
            engine.put_policy(one)
    engine.drain(1)
    policy = engine.subject(1000)
    assert policy is not None
    raw = encode_change(subject_key(1000), policy)
    assert decode_change(raw, None) == policy
    entries = finish(
        policy, local_identities={WORLD_IPV6: LabelSet.parse(["reserved:world-ipv6"])}, named_ports={}
    )
    assert not lookup(entries, Direction.EGRESS, WORLD_IPV6, 6, 80).forwarded
