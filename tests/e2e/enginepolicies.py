"""Policies of the end-to-end tests of the policy engine, as users write them."""

from __future__ import annotations

# --- addresses outside the cluster; tests/e2e/outside.py says who lives where

EGRESS_EXCEPT = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out-except, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDRSet:
    - {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}
    - {cidr: "2001:db8:1::/48", except: ["2001:db8:1:ffff::/64"]}
"""

# Another subject on the same node, with a rule that names no prefix.
EGRESS_WORLD = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out-world, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend-near}}
  egress:
  - toEntities: [world]
"""

EGRESS_DENIED_PREFIX = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out-denied, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [0.0.0.0/0, "::/0"]
  egressDeny:
  - toCIDR: [192.0.2.128/25, "2001:db8:1:ffff::/64"]
"""

EGRESS_GROUPS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out-groups, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDRSet:
    - {cidrGroupRef: partners}
"""

GROUP_INSIDE = """
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners}
spec: {externalCIDRs: [192.0.2.0/24, "2001:db8:1::/48"]}
"""

GROUP_ELSEWHERE = """
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners}
spec: {externalCIDRs: [198.51.100.0/24, "2001:db8:2::/48"]}
"""

INGRESS_PREFIX = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: in-prefix, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromCIDRSet:
    - {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}
    - {cidr: "2001:db8:1::/48", except: ["2001:db8:1:ffff::/64"]}
"""

# --- other kinds of objects

CLUSTER_WIDE = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: no-batch}
spec:
  endpointSelector:
    matchExpressions: [{key: app, operator: In, values: [backend, backend-near]}]
  enableDefaultDeny: {ingress: false}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: batch}}]
"""

NETWORK_POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-frontend, namespace: default}
spec:
  podSelector: {matchLabels: {app: backend}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: 8080, protocol: TCP}]
"""

ADMIN = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: admins}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: backend}}}}
  ingress:
  - name: frontend
    action: %s
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: frontend}}}}]
"""
BASELINE_DENY = (
    ADMIN.replace("name: admins", "name: baseline").replace("tier: Admin", "tier: Baseline") % "Deny"
)
ADMIN_DENY, ADMIN_PASS = ADMIN % "Deny", ADMIN % "Pass"

# --- named ports

INGRESS_NAMED = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: in-named, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: named}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: web, protocol: TCP}]}]
"""

EGRESS_NAMED = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out-named, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: batch}}
  egress:
  - toEndpoints: [{matchLabels: {app: named}}]
    toPorts: [{ports: [{port: web, protocol: TCP}]}]
"""

# --- audit and what a node cannot do

AUDITED = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: tried-out
  namespace: default
  annotations: {policy.axoneme.io/audit: "true"}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
"""
NO_LONGER_AUDITED = AUDITED.replace('  annotations: {policy.axoneme.io/audit: "true"}\n', "")

HTTP = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: with-http, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: batch}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{method: GET, path: /}]}
"""
