"""The privileged helper against a real kernel: interfaces, programs, maps, routes, and what it refuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.lib.bpf.links import Hook, TcxLink, attached
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from shim import privileges
from shim.maps import layout
from shim.memorydatapath import MemoryDatapath
from shim.nodeipcache import NodeIpcache
from shim.nodes import NodeSink
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from shim.routes import NodeEntry
from shim.supervisor import HELPER_CAPABILITIES
from shim.tables import IpcacheTable, RouteTable
from tests.unit.shim.nodelab import ROOT, NodeLab, ip, node_lab
from tests.waiting import FakeClock

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


def test_the_number_of_a_namespace_is_told(lab: NodeLab, helper: HelperClient) -> None:
    netns = lab.add_workload()
    code = (
        "import socket, sys\n"
        "one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "print(int.from_bytes(one.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder))"
    )
    told = helper.call(create(netns))["netns_cookie"]
    assert told == int(lab.exec(netns, sys.executable, "-c", code).stdout) > 0
    assert helper.call(protocol.NetnsCookie(netns=netns)) == {"netns_cookie": told}
    with pytest.raises(NotFound):
        helper.call(protocol.NetnsCookie(netns=f"{netns}-absent"))


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


def test_its_rights_are_the_supervisors_list_and_suffice(lab: NodeLab, helper: HelperClient) -> None:
    """Every other test here runs with these rights too."""
    status = Path(f"/proc/{helper.call(protocol.Ping())['pid']}/status").read_text()
    mask = sum(1 << capability for capability in HELPER_CAPABILITIES)
    for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
        assert f"{kind}:\t{mask:016x}\n" in status
    assert "NoNewPrivs:\t1" in status


def test_each_right_is_needed(lab: NodeLab) -> None:
    perfmon = 38  # part of SYS_ADMIN
    without_admin = lab.start_helper((privileges.CAP_BPF, privileges.CAP_NET_ADMIN, perfmon))
    without_admin.call(protocol.SetUpNode(router_ips=("10.91.0.1",)))
    assert without_admin.call(protocol.LoadPrograms())["programs"]
    with pytest.raises(Unavailable, match="setns"):
        without_admin.call(create(lab.add_workload()))
    without_admin.close()
    lab.processes[-1].terminate()
    lab.processes[-1].wait(10)
    without_net = lab.start_helper((privileges.CAP_BPF, privileges.CAP_SYS_ADMIN))
    with pytest.raises((FailedPrecondition, Unavailable)):
        without_net.call(protocol.SetUpNode(router_ips=("10.91.0.2",)))
    without_net.close()
    lab.processes[-1].terminate()
    lab.processes[-1].wait(10)
    # In the kernel's eyes SYS_ADMIN includes BPF; without both nothing is loaded.
    without_bpf = lab.start_helper((privileges.CAP_NET_ADMIN,))
    with pytest.raises((FailedPrecondition, Unavailable)):
        without_bpf.call(protocol.LoadPrograms())
    without_bpf.close()


def test_a_workload_may_be_named_by_its_process(lab: NodeLab, helper: HelperClient) -> None:
    """Without SYS_PTRACE this holds for processes that have no more rights than the helper."""
    netns = lab.add_workload()
    drop = (
        "import signal; from shim import privileges;"
        "privileges.keep_only(); print(1, flush=True); signal.pause()"
    )
    command = ["nsenter", f"--net={netns}", sys.executable, "-c", drop]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert helper.call(create(f"/proc/{process.pid}/ns/net"))["mac"]
        finally:
            process.kill()


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
    assert helper.call_with_fds(protocol.OpenPolicyMap(holder=9))[1] == []
    outer = KernelMap.open(lab.pins / layout.POLICY.name)
    outer.set_inner(layout.policy_outer_key(9), inner)
    _, fds = helper.call_with_fds(protocol.OpenPolicyMap(holder=9))
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


def test_equal_programs_are_not_loaded_again(lab: NodeLab, helper: HelperClient) -> None:
    """A shim that starts anew asks without `replace`: the same object over the same maps stays."""
    helper.call(protocol.SetUpNode(router_ips=()))
    helper.call(protocol.LoadPrograms(replace=False))
    made = helper.call(create(lab.add_workload()))
    helper.call(protocol.AttachEndpoint(endpoint_id=7, ips=("10.91.0.7",), mac=made["mac"]))

    def program_id() -> int:
        link = TcxLink.open(lab.pins / "links" / "7-axoneme_from_ep")
        try:
            return link.state().program_id
        finally:
            link.close()

    first = program_id()
    helper.call(protocol.LoadPrograms(replace=False))
    assert program_id() == first
    helper.call(protocol.LoadPrograms())
    second = program_id()
    assert second != first
    (lab.pins / layout.IPEXACT.name).unlink()
    helper.call(protocol.LoadPrograms(replace=False))
    assert (lab.pins / layout.IPEXACT.name).exists()
    assert program_id() != second, "over other maps the programs are other ones"


async def test_a_route_heals_through_the_helper(lab: NodeLab, helper: HelperClient) -> None:
    """The next hop becomes reachable after the node was told: the retry writes the route, failures go."""
    clock = FakeClock()
    maps = MemoryDatapath().maps
    table = IpcacheTable(maps[layout.IPEXACT.name], maps[layout.IPCACHE.name])
    sink = NodeSink(
        own_key="east/node1",
        ipcache=NodeIpcache(table, cluster_name="east", clock=clock),
        routes=RouteTable(helper),
        clock=clock,
        on_change=lambda nodes: None,
    )
    await sink.load()
    other = NodeEntry(
        cluster="east",
        name="node2",
        internal_ips=("192.0.2.2", "2001:db8::2"),
        pod_cidrs=("10.92.0.0/24", "fd00:92::/64"),
    )
    failures = await sink.apply({f"node:{other.key}": other}, (), complete=True)
    assert list(failures) == ["node:east/node2"]
    ip("link", "add", "up0", "type", "veth", "peer", "name", "up1", netns=lab.name)
    for name in ("up0", "up1"):
        ip("link", "set", name, "up", netns=lab.name)
    ip("addr", "add", "192.0.2.1/24", "dev", "up0", netns=lab.name)
    ip("addr", "add", "2001:db8::1/64", "dev", "up0", "nodad", netns=lab.name)
    await sink.retry()
    assert sink.failures(), "not before its time"
    clock.advance(0.2)
    await sink.retry()
    assert sink.failures() == {}
    routes = helper.call(protocol.ListRoutes())["routes"]
    assert routes == {"10.92.0.0/24": "192.0.2.2", "fd00:92::/64": "2001:db8::2"}


def _setns(descriptor: int) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x4000_0000) == 0
