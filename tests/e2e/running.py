"""A running laboratory as the tests see it: commands, traffic, processes to kill and to start again.

Waits are bounded and poll conditions. Nothing here decides what is right; the tests do.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.cli.main import main as run_command
from axoneme.client import Client, load_context
from axoneme.lab import laboratory, network, pods, processes
from axoneme.lab.plan import PlannedProcess
from axoneme.lab.processes import Process
from axoneme.lab.state import LabState
from axoneme.lab.topology import Cluster
from axoneme.lib.errors import AxonemeError, NotFound
from tests.waiting import eventually_sync

REPOSITORY = Path(__file__).parents[2]
TRAFFIC = str(Path(__file__).with_name("traffic.py"))
COMMAND_SECONDS = 60
READY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command said."""

    out: str
    err: str


@dataclass(slots=True)
class Running:
    """The laboratory, its first cluster, and an open client of it."""

    state: LabState
    client: Client

    @property
    def cluster(self) -> Cluster:
        return self.state.topology.clusters[0]

    # Commands

    def axoneme(self, *words: str, text: str | None = None, check: bool = True) -> str:
        """Runs an axoneme command with `text` as its input and returns what it printed, both streams."""
        done = subprocess.run(
            [sys.executable, "-m", "axoneme.cli.main", *words],
            check=False,
            input=text,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            cwd=REPOSITORY,
        )
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"axoneme {' '.join(words)}: {output}"
        return output

    def inside(self, pod: str, *command: str) -> list[str]:
        """Command line that runs a command in a pod."""
        cluster, _, found = self.state.topology.find_pod(pod)
        files, cgroup = self.state.files(cluster), self.state.plan(cluster).pod_cgroup(found)
        return pods.command_inside(cluster, found, files, command, cgroup=cgroup)

    def python(self, pod: str, *words: str) -> subprocess.Popen[str]:
        """Starts a sender or receiver of traffic.py in a pod."""
        command = self.inside(pod, sys.executable, TRAFFIC, *words)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    # Packets

    def ip(self, pod: str, version: int = 4) -> str:
        found = self.state.ips_by_pod[f"{self.cluster.name}/{pod}"]
        return next(ip for ip in found if (":" in ip) == (version == 6))

    def url(self, pod: str, version: int = 4) -> str:
        ip = self.ip(pod, version)
        return f"http://[{ip}]:8080/" if version == 6 else f"http://{ip}:8080/"

    def reaches(self, source: str, target: str, *, version: int = 4, seconds: float = 0.9) -> bool:
        """One HTTP request. Below one second nothing is sent twice: the first packets pass or not."""
        url = self.url(target, version)
        command = self.inside(source, "curl", "-sS", "--max-time", str(seconds), url)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.returncode == 0 and f"hello from {target}" in done.stdout

    def becomes_reachable(self, source: str, target: str, version: int = 4) -> None:
        message = f"{source} reaches {target}, v{version}"
        eventually_sync(lambda: self.reaches(source, target, version=version), message=message)

    def becomes_unreachable(self, source: str, target: str, version: int = 4) -> None:
        message = f"{source} is kept from {target}, v{version}"
        eventually_sync(lambda: self.blocked(source, target, version), message=message)

    def blocked(self, source: str, target: str, version: int = 4) -> bool:
        """One HTTP request that gets no answer while anybody would wait for a first one."""
        return not self.reaches(source, target, version=version, seconds=0.3)

    # Policies

    def apply(self, text: str) -> None:
        """Stores a policy and waits until each subject it changed has it in the kernel."""
        with self.kernel_change():
            self.client.policy.ApplyPolicy(policy_pb2.ApplyPolicyRequest(text=text))

    def delete(self, name: str, kind: str = "CiliumNetworkPolicy") -> None:
        request = policy_pb2.DeletePolicyRequest(kind=kind, namespace="default", name=name)
        with self.kernel_change():
            self.client.policy.DeletePolicy(request)

    def delete_all_policies(self) -> None:
        """Deletes every policy and waits until no endpoint is under any."""
        for policy in self.client.policy.ListPolicies(policy_pb2.ListPoliciesRequest()).policies:
            request = policy_pb2.DeletePolicyRequest(
                kind=policy.kind, namespace=policy.namespace, name=policy.name
            )
            self.client.policy.DeletePolicy(request)
        eventually_sync(self.unenforced, message="no endpoint is under a policy")

    def unenforced(self) -> bool:
        free = policy_pb2.ENFORCEMENT_DEFAULT_ALLOW
        return all(endpoint.ingress == endpoint.egress == free for endpoint in self.endpoints())

    def takes_changes(self) -> bool:
        """Whether the policy service reaches its store: deleting nothing fails with NOT_FOUND."""
        request = policy_pb2.DeletePolicyRequest(kind="CiliumNetworkPolicy", namespace="default", name="none")
        try:
            self.client.policy.DeletePolicy(request, timeout=2)
        except NotFound:
            return True
        except AxonemeError as error:
            raise AssertionError(str(error)) from error
        return False

    @contextmanager
    def kernel_change(self) -> Iterator[None]:
        """Waits after the block until at least one endpoint has a newer policy in the kernel."""
        before = self.generations()
        yield
        eventually_sync(lambda: self.generations() != before, message="the kernel has the new policy")

    def generations(self) -> dict[str, int]:
        return {endpoint.pod_name: endpoint.policy_generation for endpoint in self.endpoints()}

    def endpoints(self) -> list[node_pb2.Endpoint]:
        request = node_pb2.ListEndpointsRequest()
        nodes = [node.name for node in self.cluster.nodes]
        return [
            endpoint for node in nodes for endpoint in self.client.node(node).ListEndpoints(request).endpoints
        ]

    def command(self, *words: str, code: int = 0) -> Printed:
        """Runs an axoneme command in this process, which is much faster than in one of its own."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            found = run_command([*words])
        printed = Printed(out.getvalue(), err.getvalue())
        assert found == code, f"axoneme {' '.join(words)}: exit status {found}: {printed}"
        return printed

    def flows(self, *words: str) -> list[dict[str, Any]]:
        """Flows as `axoneme observe -o json` prints them; in this process, as tests ask for them often."""
        printed = self.command("observe", "-o", "json", *words)
        return [json.loads(line).get("flow", {}) for line in printed.out.splitlines()]

    def in_force(self, text: str) -> None:
        """Stores policies and waits until every node that has a subject of one acknowledged it."""
        for policy in self.store(text):
            eventually_sync(partial(self.acknowledged, policy), message=f"{policy.name} is in force")

    def store(self, text: str) -> list[policy_pb2.Policy]:
        """Stores the objects of a text and waits for nothing."""
        answer = self.client.policy.ApplyPolicy(policy_pb2.ApplyPolicyRequest(text=text))
        return [one.policy for one in answer.policies]

    def acknowledged(self, policy: policy_pb2.Policy) -> bool:
        """Whether all nodes that have a subject of the policy have it in the kernel."""
        found = self.policy_status(policy.kind, policy.namespace, policy.name)
        assert found.accepted, found.problem
        return found.revision >= policy.revision and found.acknowledged_nodes == found.expected_nodes > 0

    def policy_status(self, kind: str, namespace: str, name: str) -> policy_pb2.PolicyStatus:
        request = policy_pb2.GetPolicyStatusRequest(kind=kind, namespace=namespace, name=name)
        (found,) = self.client.policy.GetPolicyStatus(request).policies
        return found

    def ipcache(self, node: str) -> set[tuple[str, int]]:
        """(prefix, identity) of a node's kernel."""
        answer = self.client.node(node).ListIpcache(node_pb2.ListIpcacheRequest(page_size=1000))
        return {(entry.prefix, entry.identity) for entry in answer.entries}

    def forget_names(self) -> None:
        """Every node forgets what its endpoints looked up."""
        self.command("fqdn", "cache", "clean", "--force")

    def maglev_table(self, node: str, ip: str, port: int) -> list[str]:
        """Backend addresses by element of the table behind a frontend, as the node's kernel has it."""
        api = self.client.node(node)
        shown = f"[{ip}]:{port}/" if ":" in ip else f"{ip}:{port}/"
        found = api.ListFrontends(node_pb2.ListFrontendsRequest(filter=shown)).frontends
        if not found:
            return []
        table = api.GetMaglevTable(node_pb2.GetMaglevTableRequest(set_id=found[0].set_id))
        return [table.addresses[number] for number in table.backend_ids]

    def etcd_keys(self, prefix: str) -> list[str]:
        """Keys in the cluster's etcd; it lets in only who has a certificate of its own authority."""
        plan = self.state.plan(self.cluster)
        names = ("ca.crt", "tls.crt", "tls.key")
        ca, cert, key = (str(plan.files.certificate("identity-etcd", name)) for name in names)
        command = [
            *plan.inside_control(),
            *("etcdctl", "--endpoints", plan.addresses.etcd, "--cacert", ca, "--cert", cert, "--key", key),
            *("get", "--prefix", "--keys-only", prefix),
        ]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=15
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    # Processes

    def process(self, name: str) -> Process:
        return self.state.process(self.cluster.name, name)

    def kill(self, name: str) -> None:
        """kill -9 of a process that the laboratory started."""
        processes.kill([self.process(name).pid], seconds=5)

    def start(self, name: str, **settings: object) -> None:
        """Starts a stopped process again, with other settings where they are named."""
        planned = self._planned(name)
        if settings:
            planned = replace(planned, settings={**planned.settings, **settings})
        laboratory.start(self.state, self.cluster, planned)

    def reconfigure_nodes(self, **settings: object) -> None:
        """Stops all nodes in order and starts them with other settings; pods and their programs stay."""
        for node in self.cluster.nodes:
            process = self.process(node.name)
            os.kill(process.pid, signal.SIGTERM)
            eventually_sync(
                lambda process=process: not processes.alive(process),  # type: ignore[misc]
                seconds=READY_SECONDS,
                message=f"{node.name} has stopped",
            )
        for node in self.cluster.nodes:
            self.start(node.name, **settings)
        self.wait_ready()

    def restart(self, name: str) -> None:
        self.kill(name)
        self.start(name)
        self.wait_ready()

    def wait_ready(self) -> None:
        # Streams are opened again after up to 5 s, whatever the time that their service was away.
        laboratory.wait_ready(self.state, self.cluster, seconds=READY_SECONDS)

    def pid_on(self, node: str, module: str) -> int:
        """Pid of a node's process that runs `python -m MODULE`."""
        inode = (network.NETNS_DIRECTORY / self.cluster.netns(node)).stat().st_ino
        for pid in processes.find([], token="", netns_inodes=[inode]):
            # It may have ended since.
            with suppress(FileNotFoundError, ProcessLookupError):
                if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        raise AssertionError(f"{module} does not run on {node}")

    def kill_shim(self, node: str) -> None:
        """kill -9 of a shim; its supervisor starts the next, which this waits for."""
        old = self.pid_on(node, "shim.main")
        os.kill(old, signal.SIGKILL)
        self.wait_new_shim(node, old)

    def wait_new_shim(self, node: str, old: int) -> None:
        def renewed() -> bool:
            return self.pid_on(node, "shim.main") != old and self.synced(node)

        eventually_sync(renewed, seconds=READY_SECONDS, message=f"the shim of {node} is back")

    def problems(self, node: str) -> list[str]:
        """What a node says is wrong with it."""
        status = self.client.node(node).GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=5)
        return list(status.problems)

    def synced(self, node: str) -> bool:
        from axoneme.lib.errors import AxonemeError

        try:
            status = self.client.node(node).GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=2)
        except AxonemeError as error:
            raise AssertionError(str(error)) from error
        late = [one.name for one in status.streams if not one.synced or one.stale_seconds]
        assert not late, late
        return bool(status.streams)

    def _planned(self, name: str) -> PlannedProcess:
        plan = self.state.plan(self.cluster)
        planned = [
            plan.etcd(),
            *plan.services(),
            plan.relay(),
            *(plan.node(node) for node in self.cluster.nodes),
        ]
        planned += plan.servers() + plan.internet()
        return next(process for process in planned if process.name == name)


def opened(state: LabState) -> Running:
    """A view of a laboratory; close its client at the end."""
    return Running(state, Client(load_context(state.files(state.topology.clusters[0]).context)))
