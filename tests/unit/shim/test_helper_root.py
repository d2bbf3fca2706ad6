"""The privileged helper against a real kernel: interfaces, programs, maps, routes, and what it refuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.lib.bpf.links import Hook, attached
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from shim.maps import layout
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import NodeLab, ip, node_lab

pytestmark = pytest.mark.root


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[NodeLab]:
    with node_lab(tmp_path) as made:
        yield made


@pytest.fixture
def helper(lab: NodeLab) -> Iterator[HelperClient]:
    client = lab.start_helper()
    yield client
    client.close()


def create(netns: str, endpoint_id: int = 7) -> protocol.CreateInterface:
    ips = ("10.91.0.7", "fd00:91::7")
    return protocol.CreateInterface(endpoint_id=endpoint_id, netns=netns, interface_name="eth0", ips=ips)


def test_socket_is_for_root_only(lab: NodeLab, helper: HelperClient) -> None:
    assert lab.socket.stat().st_mode & 0o777 == 0o600
    assert lab.socket.parent.stat().st_mode & 0o777 == 0o700
    code = (
        "import os,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "fd=os.open(sys.argv[1], os.O_PATH)\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    s.connect(f'/proc/self/fd/{fd}'); s.send(b'x'); print('answer', s.recv(10))\n"
        "except OSError as e: print('refused', e.errno)\n"
    )
    done = subprocess.run(
        ["python3", "-c", code, str(lab.socket)], capture_output=True, text=True, timeout=20
    )
    assert "refused" in done.stdout or "answer b''" in done.stdout, done


def test_bad_requests_are_refused_and_do_not_end_it(lab: NodeLab, helper: HelperClient) -> None:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw.connect(str(lab.socket))
    for packet in (
        b"{",
        b"[]",
        b'{"op": "exec", "args": {}}',
        b'{"op": "ping", "args": {"x": 1}}',
        b"\xff\xfe",
    ):
        raw.send(packet)
        answer = json.loads(raw.recv(65536))
        assert not answer["ok"]
        assert answer["error"]["code"] == "INVALID_ARGUMENT"
    raw.close()
    for netns in (
        "/etc/passwd",
        "/run/netns/../../etc/shadow",
        "relative",
        "/proc/self/ns/mnt",
        "/run/netns/a/b",
    ):
        with pytest.raises(InvalidArgument):
            helper.call(create(netns))
    with pytest.raises(NotFound):
        helper.call(create("/run/netns/axt-does-not-exist"))
    assert helper.call(protocol.Ping())["pid"]


def test_own_namespace_and_other_files_are_no_workload(lab: NodeLab, helper: HelperClient) -> None:
    with pytest.raises(InvalidArgument, match="node's own"):
        helper.call(create(f"/run/netns/{lab.name}"))
    impostor = Path(f"/run/netns/{lab.name}-file")
    impostor.write_text("no namespace")
    try:
        with pytest.raises(InvalidArgument, match="not a network namespace"):
            helper.call(create(str(impostor)))
    finally:
        impostor.unlink()


def test_endpoint_life(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.SetUpNode(router_ips=("10.91.0.1", "fd00:91::1")))
    assert helper.call(protocol.LoadPrograms())["programs"]
    netns = lab.add_workload()
    made = helper.call(create(netns))
    assert "axo7" in ip("link", "show", "axo7", netns=lab.name)
    assert "state DOWN" in ip("link", "show", "axo7", netns=lab.name)
    assert helper.call(create(netns)) == made, "an equal request takes the pair as it is"
    listed = helper.call(protocol.ListInterfaces())["interfaces"]
    assert listed == {"7": {"ifindex": made["ifindex"], "attached": False}}
    attach = protocol.AttachEndpoint(endpoint_id=7, ips=("10.91.0.7", "fd00:91::7"), mac=made["mac"])
    helper.call(attach)
    helper.call(attach)
    assert helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    pod = netns.rpartition("/")[2]
    assert "10.91.0.7/32" in ip("addr", netns=pod)
    assert "fd00:91::7/128" in ip("addr", netns=pod)
    assert "169.254.1.1" in ip("route", netns=pod)
    assert "fe80::1" in ip("-6", "route", netns=pod)
    assert "10.91.0.7 dev axo7" in ip("route", netns=lab.name)
    assert "fd00:91::7 dev axo7" in ip("-6", "route", netns=lab.name)
    # No map entry names this endpoint, so its programs drop everything it sends.
    assert lab.exec(netns, "ping", "-c1", "-W1", "10.91.0.1").returncode != 0
    helper.call(protocol.DetachEndpoint(endpoint_id=7))
    assert "10.91.0.7" not in ip("route", netns=lab.name)
    helper.call(protocol.DeleteInterface(endpoint_id=7))
    helper.call(protocol.DeleteInterface(endpoint_id=7))
    assert helper.call(protocol.ListInterfaces())["interfaces"] == {}
    assert not list((lab.pins / "links").iterdir())


def test_a_foreign_interface_of_that_name_is_left_alone(lab: NodeLab, helper: HelperClient) -> None:
    netns = lab.add_workload()
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "other", netns=netns.rpartition("/")[2])
    with pytest.raises(FailedPrecondition, match="exists already"):
        helper.call(create(netns))


def test_policy_map_travels_as_a_descriptor(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.SetUpNode(router_ips=()))
    helper.call(protocol.LoadPrograms())
    _, fds = helper.call_with_fds(protocol.CreatePolicyMap())
    inner = KernelMap(fds[0])
    assert inner.max_entries == layout.POLICY_INNER.max_entries
    assert helper.call_with_fds(protocol.OpenPolicyMap(endpoint_id=9))[1] == []
    outer = KernelMap.open(lab.pins / layout.POLICY.name)
    outer.set_inner(layout.policy_outer_key(9), inner)
    _, fds = helper.call_with_fds(protocol.OpenPolicyMap(endpoint_id=9))
    assert KernelMap(fds[0]).map_id == inner.map_id
    outer.delete(layout.policy_outer_key(9))


def test_routes(lab: NodeLab, helper: HelperClient) -> None:
    ip("link", "add", "up0", "type", "veth", "peer", "name", "up1", netns=lab.name)
    for name in ("up0", "up1"):
        ip("link", "set", name, "up", netns=lab.name)
    ip("addr", "add", "192.0.2.1/24", "dev", "up0", netns=lab.name)
    ip("addr", "add", "2001:db8::1/64", "dev", "up0", "nodad", netns=lab.name)
    routes = {
        "10.92.0.0/24": "192.0.2.2",
        "fd00:92::/64": "2001:db8::2",
        "10.91.0.0/24": "unreachable",
        "fd00:91::/64": "unreachable",
    }
    assert helper.call(protocol.SetRoutes(upserts=routes, removals=()))["faults"] == {}
    assert helper.call(protocol.ListRoutes())["routes"] == routes
    moved = {"10.92.0.0/24": "192.0.2.3"}
    assert helper.call(protocol.SetRoutes(upserts=moved, removals=("fd00:92::/64",)))["faults"] == {}
    assert helper.call(protocol.SetRoutes(upserts={}, removals=("fd00:92::/64",)))["faults"] == {}
    expected = {**routes, **moved}
    del expected["fd00:92::/64"]
    assert helper.call(protocol.ListRoutes())["routes"] == expected
    bad = helper.call(protocol.SetRoutes(upserts={"10.93.0.0/24": "203.0.113.9"}, removals=()))
    assert list(bad["faults"]) == ["10.93.0.0/24"]


def test_missing_program_is_seen_and_attached_again(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.SetUpNode(router_ips=()))
    helper.call(protocol.LoadPrograms())
    made = helper.call(create(lab.add_workload()))
    attach = protocol.AttachEndpoint(endpoint_id=7, ips=("10.91.0.7",), mac=made["mac"])
    helper.call(attach)
    (lab.pins / "links" / "7-axoneme_to_ep").unlink()
    assert not helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    helper.call(attach)
    assert helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]


def test_helper_restart_is_survived(lab: NodeLab, helper: HelperClient) -> None:
    first = helper.call(protocol.Ping())["pid"]
    lab.processes[-1].kill()
    lab.processes[-1].wait()
    with pytest.raises(Unavailable):
        helper.call(protocol.Ping())
    lab.start_helper().close()
    assert helper.call(protocol.Ping())["pid"] != first


def test_a_hook_is_never_without_a_program(lab: NodeLab, helper: HelperClient) -> None:
    """Programs are replaced again and again while another thread asks the kernel what is attached."""
    helper.call(protocol.SetUpNode(router_ips=()))
    helper.call(protocol.LoadPrograms())
    made = helper.call(create(lab.add_workload()))
    helper.call(protocol.AttachEndpoint(endpoint_id=7, ips=("10.91.0.7",), mac=made["mac"]))
    bare: list[int] = []
    programs: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        descriptor = os.open(f"/run/netns/{lab.name}", os.O_RDONLY)
        _setns(descriptor)
        os.close(descriptor)
        while not stop.is_set():
            found = attached(made["ifindex"], Hook.TCX_INGRESS)
            bare.append(len(found))
            programs.update(one.program_id for one in found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(10):
        helper.call(protocol.LoadPrograms())
    stop.set()
    watcher.join()
    assert set(bare) == {1}
    assert len(programs) > 3, "the program really was replaced"


def _setns(descriptor: int) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x4000_0000) == 0
