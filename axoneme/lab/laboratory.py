"""Building a laboratory up and taking it down, in order.

    up:    certificates → network → etcd → the internet → identity, policy, relay, nodes → endpoints → servers
    down:  processes → network → pins → files

`up` leaves nothing behind when it fails; `down` needs no record, so it also removes what a crash left. What
runs where is decided by `plan`, who is whose by `processes`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from axoneme.client.context import SYSTEM_LAB_DIRECTORY
from axoneme.lab import certificates, cgroups, endpoints, internet, network, pods, processes, readiness, state
from axoneme.lab.errors import LabError
from axoneme.lab.files import toml, write_json, write_text
from axoneme.lab.plan import BPFFS, ETCD_BINARY, PlannedProcess
from axoneme.lab.processes import Process
from axoneme.lab.progress import Progress
from axoneme.lab.state import LabState
from axoneme.lab.topology import PREFIX, Cluster, Topology
from axoneme.lib.errors import AxonemeError
from axoneme.lib.nodenames import health_namespace

STOP_SECONDS = 5.0
TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "curl": "curl",
    internet.DNSMASQ: "dnsmasq-base",
}


def up(topology: Topology, root: Path, progress: Progress, *, keep: bool = False) -> LabState:
    """Builds the laboratory. Raises LabError after removing what was made, unless `keep`."""
    check_requirements(topology)
    lab = LabState(root=root, topology=topology)
    with locked(root):
        down(root, Progress(quiet=True), network_too=not topology.simulated)
        try:
            _build(lab, progress)
        except BaseException:
            if not keep:
                progress.say("removing what was made")
                down(root, Progress(quiet=True))
            raise
    return lab


def down(root: Path, progress: Progress, *, network_too: bool | None = None) -> list[str]:
    """Removes the laboratory and returns what it removed; empty when there was none."""
    recorded = state.load(root)
    if network_too is None:
        network_too = not recorded.topology.simulated if recorded else root == SYSTEM_LAB_DIRECTORY
    network_too = network_too and os.geteuid() == 0
    removed = _stop_processes(recorded, with_namespaces=network_too, progress=progress)
    if network_too:
        with progress.step("removing network namespaces and pins"):
            removed += network.remove() + _remove_pins() + cgroups.remove(cgroups.hierarchy())
    if root.exists():
        shutil.rmtree(root)
        removed.append(f"directory {root}")
    return removed


def check_requirements(topology: Topology) -> None:
    """Raises LabError with one sentence about what is missing."""
    if shutil.which(ETCD_BINARY) is None:
        raise LabError(
            "etcd is not installed: apt-get install etcd-server, or put etcd 3.4 or newer on the PATH"
        )
    if topology.simulated:
        return
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        raise LabError(
            "packets need Linux and root: run it with sudo, or `axoneme lab up --control-plane` (no packets)"
        )
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise LabError(f"{tool} is not installed: apt-get install {package}")


def start(lab: LabState, cluster: Cluster, planned: PlannedProcess) -> Process:
    """Starts one process and records it; also used to start a stopped one again."""
    files = lab.files(cluster)
    if planned.settings:
        write_text(files.config(planned.name), toml(planned.settings))
    process = processes.spawn(
        planned.name, cluster.name, planned.command, log=files.log(planned.name), token=lab.token
    )
    lab.record(process)
    return process


def running(lab: LabState) -> list[Process]:
    """The recorded processes that run now."""
    return [process for process in lab.processes if processes.alive(process)]


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keeps a second `up` or `down` of the same laboratory out. Raises LabError when there is one."""
    root.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(root.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise LabError("another `axoneme lab` command is at work; wait for it") from error
    finally:
        os.close(handle)
        if root == SYSTEM_LAB_DIRECTORY:
            with suppress(OSError):
                root.parent.rmdir()  # empty once the laboratory is gone


def _build(lab: LabState, progress: Progress) -> None:
    clusters = lab.topology.clusters
    simulated = lab.topology.simulated
    lab.save()
    with progress.step("certificates"):
        for cluster in clusters:
            lab.files(cluster).make()
            certificates.issue_all(cluster, lab.files(cluster))
            write_json(lab.files(cluster).context, lab.plan(cluster).context())
    if not simulated:
        with progress.step(f"network: {len(network.namespaces(lab.topology))} namespaces"):
            network.build(lab.topology)
            cgroups.build(lab.topology, cgroups.hierarchy())
            _prepare_pins(lab)
    with progress.step("etcd"):
        etcds = [(cluster, start(lab, cluster, lab.plan(cluster).etcd())) for cluster in clusters]
        for cluster, process in etcds:
            readiness.wait(readiness.etcd(lab.plan(cluster)), process)
    with progress.step("services and nodes"):
        if not simulated:
            for planned in lab.plan(clusters[0]).internet():
                start(lab, clusters[0], planned)
        for cluster in clusters:
            _start_cluster(lab, cluster)
        for cluster in clusters:
            wait_ready(lab, cluster)
    with progress.step("pods"):
        for cluster in clusters:
            _add_pods(lab, cluster)
    lab.complete = True
    lab.save()


def _start_cluster(lab: LabState, cluster: Cluster) -> None:
    plan = lab.plan(cluster)
    for planned in plan.services():
        start(lab, cluster, planned)
    for node in cluster.nodes:
        lab.files(cluster).node(node.name).mkdir(mode=0o700, exist_ok=True)
        start(lab, cluster, plan.node(node))
    start(lab, cluster, plan.relay())
    if not lab.topology.simulated:
        for planned in plan.servers():
            start(lab, cluster, planned)


def wait_ready(lab: LabState, cluster: Cluster, *, seconds: float = readiness.LIMIT_SECONDS) -> None:
    """Waits until every process of a cluster works. Raises LabError naming the first that does not."""
    with readiness.connect(lab.files(cluster).context) as client:
        checks = {"identity": readiness.identity(client), "policy": readiness.policy(client)}
        checks["clustermesh"] = readiness.clustermesh(client)
        checks |= {node.name: readiness.node(client, node.name) for node in cluster.nodes}
        checks["relay"] = readiness.relay(client, len(cluster.nodes))
        for name, check in checks.items():
            readiness.wait(check, lab.process(cluster.name, name), seconds=seconds)


def _add_pods(lab: LabState, cluster: Cluster) -> None:
    with readiness.connect(lab.files(cluster).context) as client:
        for node, pod in cluster.pods():
            try:
                ips = endpoints.add(client, cluster, node, pod)
            except AxonemeError as error:
                process = lab.process(cluster.name, node.name)
                raise LabError(
                    readiness.failure(process, f"refuses pod {pod.name}: {readiness.words(error)}")
                ) from error
            lab.ips_by_pod[f"{cluster.name}/{pod.name}"] = ips
    for other in lab.topology.clusters:
        write_text(lab.files(other).hosts, pods.hosts_file(lab.ips_by_pod, other))
        write_text(lab.files(other).resolv_conf, pods.resolv_conf(lab.ips_by_pod, other))
    if lab.topology.simulated:
        return
    for _, pod in cluster.pods():
        if pod.http_port:
            process = lab.process(cluster.name, f"web-{pod.name}")
            readiness.wait(readiness.listening(process, pod.http_port), process)


def _prepare_pins(lab: LabState) -> None:
    if "bpf" not in _filesystem_types(BPFFS):
        done = subprocess.run(
            ["mount", "-t", "bpf", "bpf", str(BPFFS)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise LabError(f"cannot mount the BPF file system on {BPFFS}: {done.stderr.strip()[:256]}")
    for cluster in lab.topology.clusters:
        lab.plan(cluster).pins.mkdir(mode=0o700, exist_ok=True)


def _filesystem_types(path: Path) -> list[str]:
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [row[2] for row in rows if row[1] == str(path)]


def _remove_pins() -> list[str]:
    """The pins of all nodes, and the namespaces of their health endpoints, which are named after them."""
    removed = []
    for directory in sorted(BPFFS.glob(f"{PREFIX}-*")) if BPFFS.is_dir() else []:
        for folder in directory.glob("axoneme/*"):
            name = health_namespace(folder)
            done = subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
            removed += [] if done.returncode else [f"namespace {name}"]
        shutil.rmtree(directory, ignore_errors=True)
        removed.append(f"pins {directory}")
    return removed


def _stop_processes(recorded: LabState | None, *, with_namespaces: bool, progress: Progress) -> list[str]:
    token = recorded.token if recorded else ""
    known: Sequence[Process] = recorded.processes if recorded else ()

    def left() -> list[int]:
        inodes = network.namespace_inodes() if with_namespaces else frozenset()
        return processes.find(known, token=token, netns_inodes=inodes)

    found = left()
    if not found:
        return []
    with progress.step(f"stopping {len(found)} processes"):
        # Nothing in a laboratory is worth a slow farewell. A supervisor may start a child between two looks.
        for _ in range(5):
            processes.kill(left(), first=[process.pid for process in known], seconds=STOP_SECONDS)
            if not left():
                break
    return [f"{len(found)} processes"]
