"""Pods as endpoints of their node's shim.

A pod is a network namespace; its interface comes from the shim, as it would for any other workload.
"""

from __future__ import annotations

import uuid
from ipaddress import ip_address

from axoneme.api.node.v1 import node_pb2
from axoneme.client import Client
from axoneme.lab.network import NETNS_DIRECTORY
from axoneme.lab.topology import Cluster, Node, Pod

ADD_SECONDS = 30.0


def add(client: Client, cluster: Cluster, node: Node, pod: Pod) -> list[str]:
    """Adds the pod as an endpoint of its node and returns its addresses. Adding it twice is fine."""
    request = node_pb2.AddEndpointRequest(
        request_id=str(uuid.uuid4()),
        namespace=pod.namespace,
        pod_name=pod.name,
        labels=pod.labels,
        # A simulated node only keeps it.
        netns=str(NETNS_DIRECTORY / cluster.netns(pod.name)),
    )
    answer = client.node(node.name).AddEndpoint(request, timeout=ADD_SECONDS)
    return sorted(answer.endpoint.ips, key=lambda text: ip_address(text).version)
