"""Inside the pods of a laboratory: names of other pods, the resolver, and commands run there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from axoneme.lab import internet
from axoneme.lab.cgroups import joining
from axoneme.lab.files import ClusterFiles
from axoneme.lab.network import entering
from axoneme.lab.topology import Cluster, Pod


def hosts_file(ips_by_pod: Mapping[str, Sequence[str]], cluster: Cluster) -> str:
    """/etc/hosts as the pods of a cluster see it: pods by name, those of other clusters as POD.CLUSTER."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for pod, ips in ips_by_pod.items():
        cluster_name, _, name = pod.partition("/")
        names = f"{name}.{cluster_name}" + (f" {name}" if cluster_name == cluster.name else "")
        lines += [f"{ip} {names}" for ip in ips]
    return "\n".join(lines) + "\n"


def resolv_conf(ips_by_pod: Mapping[str, Sequence[str]], cluster: Cluster) -> str:
    """/etc/resolv.conf of the pods: the resolvers of their cluster, else the one outside."""
    resolvers = [pod.name for _, pod in cluster.pods() if pod.resolver]
    found = [ip for name in resolvers for ip in ips_by_pod.get(f"{cluster.name}/{name}", ())]
    # No libc asks more than three.
    lines = [f"nameserver {ip}" for ip in (found or internet.DNS)[:3]]
    return "\n".join([*lines, "options timeout:2"]) + "\n"


def command_inside(
    cluster: Cluster, pod: Pod, files: ClusterFiles, command: Sequence[str], *, cgroup: Path | None
) -> list[str]:
    """The command line that runs a command in the pod, with the pods' names in /etc/hosts and the cluster's
    resolvers in /etc/resolv.conf."""
    # A mount namespace of its own, so that the files are bound over those of /etc for this command alone.
    script = (
        'mount --bind "$1" /etc/hosts && { [ ! -e /etc/resolv.conf ] || mount --bind "$2" /etc/resolv.conf; }'
        ' && shift 2 && exec "$@"'
    )
    bound = (os.fspath(files.hosts), os.fspath(files.resolv_conf))
    isolated = ["unshare", "--mount", "--", "sh", "-c", script, "sh", *bound]
    return [*entering(cluster.netns(pod.name)), *joining(cgroup), *isolated, *command]
