"""Inside the pods of a laboratory: names of other pods, and commands run there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from axoneme.lab.cgroups import joining
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


def command_inside(
    cluster: Cluster, pod: Pod, hosts: os.PathLike[str], command: Sequence[str], *, cgroup: Path | None
) -> list[str]:
    """The command line that runs a command in the pod, with the pods' names in /etc/hosts."""
    # A mount namespace of its own, so that the file is bound over /etc/hosts for this command alone.
    script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    isolated = ["unshare", "--mount", "--", "sh", "-c", script, "sh", os.fspath(hosts)]
    return [*entering(cluster.netns(pod.name)), *joining(cgroup), *isolated, *command]
