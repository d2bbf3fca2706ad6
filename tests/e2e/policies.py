"""Policies of the end-to-end tests, as users write them."""

from __future__ import annotations

ALLOW_FRONTEND = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-frontend, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports:
      - {port: "8080", protocol: TCP}
      - {port: "9000", protocol: TCP}
      - {port: "9001", protocol: UDP}
"""

DENY_FRONTEND = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: deny-frontend, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
"""

ALLOW_NEWCOMER = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-newcomer, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: newcomer}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""

# The sender may send; the receiver on the same node takes nothing from it.
SAME_NODE_EGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend-egress, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend-near}}]
"""

SAME_NODE_INGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: near-ingress, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend-near}}
  ingress:
  - fromEntities: [all]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
"""

SAME_NODE_ALLOW = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: near-allow, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend-near}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
"""


def allow(target: str, source: str, port: int) -> str:
    """Only `source` may reach `target`, on one port of TCP and UDP; both by their label app."""
    return f"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: only-{source}-to-{target}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: {target}}}}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: {source}}}}}]
    toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}, {{port: "{port}", protocol: UDP}}]}}]
"""
