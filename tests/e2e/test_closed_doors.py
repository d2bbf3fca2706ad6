"""Who may connect, what listens, and what a process may do to the machine."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.client import AxonemeError, Client
from axoneme.lab import network
from axoneme.lib import certs
from tests.e2e.running import Running

pytestmark = [pytest.mark.root, pytest.mark.etcd]

# ARCHITECTURE §2: addresses of every process, and etcd inside the control namespace.
CONTROL_LISTENERS = {
    *("198.18.1.10:4301", "198.18.1.10:4302", "198.18.1.10:4303", "198.18.1.10:4245"),
    *("127.0.0.1:9962", "127.0.0.1:9963", "127.0.0.1:9964", "127.0.0.1:9965"),
    *("127.0.0.1:2379", "127.0.0.1:2380"),
}


def as_role(lab: Running, directory: Path, authority: Path, role: str, name: str) -> Client:
    """A client with another certificate."""
    certs.issue(authority, role, name, directory)
    context = dataclasses.replace(
        lab.client.context, cert_file=directory / "tls.crt", key_file=directory / "tls.key"
    )
    return Client(context, timeout_seconds=5)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    directory = tmp_path / "certs"
    directory.mkdir(mode=0o700)
    return directory


def refused(call: object) -> str:
    with pytest.raises(AxonemeError) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


def test_a_certificate_of_another_authority_is_refused(lab: Running, private: Path) -> None:
    certs.create_ca(private / "ca", lab.cluster.trust_domain)
    with as_role(lab, private / "leaf", private / "ca", "user/admin", "mallory") as client:
        listing = policy_pb2.ListPoliciesRequest()
        assert refused(lambda: client.policy.ListPolicies(listing)) == "UNAVAILABLE"
        assert refused(lambda: client.identity.ListNodes(identity_pb2.ListNodesRequest())) == "UNAVAILABLE"


def test_a_reader_reads_and_changes_nothing(lab: Running, private: Path) -> None:
    authority = lab.state.files(lab.cluster).directory / "certs" / "authority"
    with as_role(lab, private / "leaf", authority, "user/reader", "eve") as client:
        assert client.policy.ListPolicies(policy_pb2.ListPoliciesRequest()).revision > 0
        request = policy_pb2.DeletePolicyRequest(kind="CiliumNetworkPolicy", namespace="default", name="x")
        assert refused(lambda: client.policy.DeletePolicy(request)) == "PERMISSION_DENIED"


def test_a_node_acts_for_itself_only(lab: Running, private: Path) -> None:
    authority = lab.state.files(lab.cluster).directory / "certs" / "authority"
    with as_role(lab, private / "leaf", authority, "node", "node1") as client:
        request = identity_pb2.RegisterNodeRequest(node=identity_pb2.Node(name="node2"))
        assert refused(lambda: client.identity.RegisterNode(request)) == "PERMISSION_DENIED"


def listeners(netns: str) -> set[str]:
    command = [*network.entering(netns), "ss", "-H", "-l", "-t", "-n"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # gRPC opens IPv4 addresses as mapped ones.
    mapped = re.compile(r"\[::ffff:([0-9.]+)\]")
    return {mapped.sub(r"\1", line.split()[3]) for line in shown.splitlines()}


def test_nothing_listens_but_what_the_table_says(lab: Running) -> None:
    assert listeners(lab.cluster.control_netns) == CONTROL_LISTENERS
    for node in lab.cluster.nodes:
        wanted = {f"{lab.cluster.node_address(node)}:4244", "127.0.0.1:9966", "127.0.0.1:9967"}
        wanted |= {"127.0.0.1:10053", "[::1]:10053"}
        wanted |= {
            f"{ip}:4240" for ip in (lab.cluster.node_address(node), f"[{lab.cluster.node_address6(node)}]")
        }
        assert listeners(lab.cluster.netns(node.name)) == wanted


def test_unix_sockets_are_for_root_alone(lab: Running) -> None:
    for node in lab.cluster.nodes:
        sockets = [
            path for path in lab.state.files(lab.cluster).node(node.name).iterdir() if path.is_socket()
        ]
        assert {path.name for path in sockets} == {"shim.sock", "helper.sock", "cni.sock", "fqdn.sock"}
        assert {oct(path.stat().st_mode & 0o777) for path in sockets} == {"0o600"}


def capabilities(lab: Running, node: str, module: str) -> dict[str, int]:
    """Sets of capabilities of a node's process, which must not be able to get others."""
    lines = Path(f"/proc/{lab.pid_on(node, module)}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    return {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def test_the_shim_has_no_capability_and_can_get_none(lab: Running) -> None:
    for node in lab.cluster.nodes:
        assert set(capabilities(lab, node.name, "shim.main").values()) == {0}


def test_the_dns_proxy_has_what_its_sockets_need(lab: Running) -> None:
    sockets = 1 << 10 | 1 << 12 | 1 << 13  # NET_BIND_SERVICE, NET_ADMIN, NET_RAW
    for node in lab.cluster.nodes:
        found = capabilities(lab, node.name, "services.fqdn.main")
        assert found["CapEff"] == sockets
        assert all(one | sockets == sockets for one in found.values())


def test_no_secret_stands_on_a_command_line(lab: Running) -> None:
    for process in lab.state.processes:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"PRIVATE" not in words
        assert lab.state.token.encode() not in words
