"""Certificates of a laboratory: one authority for the cluster's mTLS, one for its etcd.

Nodes and users hold nothing from etcd's authority, so they could not talk to etcd even if they reached it.
"""

from __future__ import annotations

from datetime import timedelta

from axoneme.lab.files import ClusterFiles
from axoneme.lab.topology import Cluster
from axoneme.lib import certs

LIFETIME = timedelta(days=30)
STORE_SERVICES = ("identity", "policy", "clustermesh")
LOOPBACK_NAMES = ("127.0.0.1", "::1")


def issue_all(cluster: Cluster, files: ClusterFiles) -> None:
    """Creates both authorities and every certificate that the cluster's processes and its user need."""
    directory = files.directory / "certs"
    mesh, etcd = directory / "authority", directory / "etcd-authority"
    for authority in (mesh, etcd):
        certs.create_ca(authority, cluster.trust_domain)
    roles = [("svc", name, name) for name in (*STORE_SERVICES, "relay")]
    roles += [("node", node.name, node.name) for node in cluster.nodes]
    roles += [("user/admin", "lab", "user"), ("user/reader", "internet", "internet")]
    for role, name, folder in roles:
        certs.issue(mesh, role, name, directory / folder, ttl=LIFETIME)
    certs.issue(etcd, "svc", "etcd", directory / "etcd", ttl=LIFETIME, ip_sans=LOOPBACK_NAMES)
    for name in STORE_SERVICES:
        certs.issue(etcd, "svc", name, directory / f"{name}-etcd", ttl=LIFETIME)
