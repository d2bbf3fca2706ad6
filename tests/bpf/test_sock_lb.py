"""Load balancing at sockets, with real ones: a process in a cgroup, servers in its network namespace."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib.bpf import BpfError
from axoneme.lib.bpf.cgrouplinks import SOCKET_PROGRAMS, CgroupHook, CgroupLink
from axoneme.lib.bpf.features import is_bpffs
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from shim.bpf.manifest import object_path
from shim.maps import base, lb, node
from tests.bpf.socketlab import BPFFS, Balancer, Worker, network, unique, workload_cgroup

pytestmark = pytest.mark.root

TCP, UDP = 6, 17
SET, PORT, SERVER_PORT = 5, 80, 8080
VIP = {4: "10.96.0.10", 6: "fd96::10"}
SERVERS = {4: ["10.77.0.1", "10.77.0.2", "10.77.0.3"], 6: ["fd77::1", "fd77::2", "fd77::3"]}
NOT_ROUTED = {"errno": errno.ENETUNREACH}
REFUSED = {"errno": errno.ECONNREFUSED}
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
PROTOCOLS = {"stream": TCP, "datagram": UDP, "loose_datagram": UDP}
calls = pytest.mark.parametrize("call", list(PROTOCOLS))


@dataclass
class Lab:
    """A client in the cgroup, one outside, both among the servers; and the maps."""

    balancer: Balancer
    programs: dict[str, BpfProgram]
    links: dict[CgroupHook, CgroupLink]
    client: Worker
    stranger: Worker
    other: Worker
    cgroup: Path
    pins: Path

    def service(self, v: int, **service: int) -> None:
        """A frontend for TCP and UDP with all three servers of a family."""
        numbers = {10 * v + i: (address, SERVER_PORT) for i, address in enumerate(SERVERS[v])}
        for protocol in (TCP, UDP):
            self.balancer.backends(SET, numbers, protocol)
            one = lb.LbService(**{"set_id": SET, "slots": 3, **service})
            self.balancer.frontend(VIP[v], PORT, protocol, one)

    def asks(self, call: str, v: int) -> Any:
        return self.client.call(call, VIP[v], PORT)


def loaded(pins: Path, **constants: int) -> tuple[dict[str, KernelMap], dict[str, BpfProgram]]:
    with BpfObject(object_path("sock.o")) as one:
        one.set_constants(**constants)
        one.load(pins=pins)
        return {name: one.map(name) for name in one.map_specs()}, one.programs()


@pytest.fixture(scope="module")
def whole_lab(compiled: None) -> Iterator[Lab]:
    if not is_bpffs(BPFFS):
        subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
    with ExitStack() as stack:
        cgroup = stack.enter_context(workload_cgroup(unique("sock")))
        addresses = SERVERS[4] + SERVERS[6]
        netns = stack.enter_context(network(unique("a"), addresses))
        elsewhere = stack.enter_context(network(unique("b"), addresses))
        pins = BPFFS / unique("sock")
        stack.callback(shutil.rmtree, pins, ignore_errors=True)
        server, far, client, stranger, other = (
            Worker(netns),
            Worker(elsewhere),
            Worker(netns, cgroup),
            Worker(netns),
            Worker(elsewhere, cgroup),
        )
        for worker in (server, far, client, stranger, other):
            stack.callback(worker.close)
        for address in addresses:
            server.call("listen", address, SERVER_PORT)
            far.call("listen", address, SERVER_PORT)
        maps, programs = loaded(pins)
        links = {}
        for name, hook in SOCKET_PROGRAMS.items():
            links[hook] = CgroupLink.create(programs[name], cgroup=cgroup, hook=hook)
            stack.callback(links[hook].close)
        yield Lab(Balancer(maps), programs, links, client, stranger, other, cgroup, pins)


@pytest.fixture
def lab(whole_lab: Lab) -> Iterator[Lab]:
    whole_lab.balancer.reset()
    yield whole_lab
    whole_lab.client.call("close_kept")


@family
@calls
def test_a_backend_answers_and_the_frontend_shows(lab: Lab, v: int, call: str) -> None:
    lab.service(v)
    answer = lab.asks(call, v)
    assert answer["server"] in SERVERS[v]
    assert answer.get("peer", [VIP[v], PORT]) == [VIP[v], PORT]
    assert answer.get("from", [VIP[v], PORT]) == [VIP[v], PORT]


@calls
def test_ipv4_through_an_ipv6_socket(lab: Lab, call: str) -> None:
    lab.service(4)
    mapped = f"::ffff:{VIP[4]}"
    answer = lab.client.call(call, mapped, PORT)
    assert answer["server"] in SERVERS[4]
    assert answer.get("peer", [mapped, PORT]) == [mapped, PORT]
    assert answer.get("from", [mapped, PORT]) == [mapped, PORT]


@family
@calls
def test_what_is_no_service_is_left_alone(lab: Lab, v: int, call: str) -> None:
    lab.service(v)
    target = SERVERS[v][1]
    answer = lab.client.call(call, target, SERVER_PORT)
    assert answer["server"] == target
    assert answer.get("peer", [target, SERVER_PORT]) == [target, SERVER_PORT]
    assert answer.get("from", [target, SERVER_PORT]) == [target, SERVER_PORT]
    assert lab.balancer.maps["axoneme_sockets"].items() == []
    assert lab.client.call(call, VIP[v], PORT + 1) == NOT_ROUTED


@family
@calls
@pytest.mark.parametrize("why", ["other-protocol", "outside", "not-by-socket", "not-in-the-cgroup"])
def test_who_is_not_balanced_here(lab: Lab, v: int, call: str, why: str) -> None:
    worker, service = lab.client, lb.LbService(SET, 3)
    protocol, scope = PROTOCOLS[call], lb.LB_INSIDE
    lab.service(v)
    lab.balancer.clear("axoneme_lb")
    if why == "other-protocol":
        protocol = TCP + UDP - protocol
    elif why == "outside":
        scope = lb.LB_OUTSIDE
    elif why == "not-by-socket":
        service = lb.LbService(SET, 3, lb.LB_NOT_SOCKET)
    else:
        worker = lab.stranger
    lab.balancer.frontend(VIP[v], PORT, protocol, service, scope=scope)
    assert worker.call(call, VIP[v], PORT) == NOT_ROUTED


@family
@calls
def test_a_service_without_backends_refuses_at_once(lab: Lab, v: int, call: str) -> None:
    lab.service(v, slots=0)
    assert lab.asks(call, v) == REFUSED


@family
@calls
def test_an_old_kernel_refuses_with_its_own_error(lab: Lab, v: int, call: str) -> None:
    """Before Linux 6.1 these programs cannot name one."""
    lab.service(v, slots=0)
    _, programs = loaded(lab.pins, set_retval_known=0)
    try:
        for name, hook in SOCKET_PROGRAMS.items():
            lab.links[hook].update(programs[name])
        assert lab.asks(call, v) == {"errno": errno.EPERM}
    finally:
        for name, hook in SOCKET_PROGRAMS.items():
            lab.links[hook].update(lab.programs[name])


@family
@calls
def test_a_slot_without_backend_refuses(lab: Lab, v: int, call: str) -> None:
    lab.service(v)
    lab.balancer.clear("axoneme_lb_backends")
    assert lab.asks(call, v) == REFUSED


@family
@calls
def test_a_backend_of_the_other_family_is_none(lab: Lab, v: int, call: str) -> None:
    lab.service(10 - v)
    lab.balancer.frontend(VIP[v], PORT, PROTOCOLS[call], lb.LbService(SET, 3))
    assert lab.asks(call, v) == REFUSED


@family
def test_a_connected_socket_keeps_its_backend(lab: Lab, v: int) -> None:
    """The kernel asks nobody when a connected socket sends."""
    lab.service(v)
    numbers = {kind: lab.client.call("keep", kind, VIP[v], PORT) for kind in ("stream", "datagram")}
    before = {kind: lab.client.call("ask", number) for kind, number in numbers.items()}
    for name in ("axoneme_lb", "axoneme_lb_slots", "axoneme_lb_backends"):
        lab.balancer.clear(name)
    for kind, number in numbers.items():
        after = lab.client.call("ask", number)
        assert after["peer"] == [VIP[v], PORT]
        assert after["server"] == before[kind]["server"]


@family
def test_datagrams_of_one_socket_stay_on_one_backend(lab: Lab, v: int) -> None:
    lab.service(v)
    number = lab.client.call("keep", "loose", VIP[v], PORT)
    answers = [lab.client.call("send_to", number, VIP[v], PORT) for _ in range(20)]
    assert len({answer["server"] for answer in answers}) == 1
    assert all(answer["from"] == [VIP[v], PORT] for answer in answers)


@family
def test_datagrams_go_elsewhere_when_the_backend_is_gone(lab: Lab, v: int) -> None:
    lab.service(v)
    number = lab.client.call("keep", "loose", VIP[v], PORT)
    first = lab.client.call("send_to", number, VIP[v], PORT)["server"]
    left = {10 * v + i: (one, SERVER_PORT) for i, one in enumerate(SERVERS[v]) if one != first}
    lab.balancer.clear("axoneme_lb_backends")
    lab.balancer.clear("axoneme_lb_slots")
    lab.balancer.backends(SET, left, UDP)
    lab.balancer.frontend(VIP[v], PORT, UDP, lb.LbService(SET, 2))
    second = lab.client.call("send_to", number, VIP[v], PORT)
    assert second["server"] in {one for one, _ in left.values()}
    assert second["from"] == [VIP[v], PORT]


@family
def test_a_terminating_backend_keeps_its_sockets(lab: Lab, v: int) -> None:
    lab.service(v)
    number = lab.client.call("keep", "loose", VIP[v], PORT)
    first = lab.client.call("send_to", number, VIP[v], PORT)["server"]
    index = SERVERS[v].index(first)
    lab.balancer.backend(10 * v + index, first, SERVER_PORT, UDP, lb.BACKEND_TERMINATING)
    lab.balancer.frontend(VIP[v], PORT, UDP, lb.LbService(SET, 0))
    assert lab.client.call("send_to", number, VIP[v], PORT)["server"] == first
    assert lab.asks("loose_datagram", v) == REFUSED


@family
def test_a_backend_number_that_another_took_is_not_followed(lab: Lab, v: int) -> None:
    lab.service(v)
    number = lab.client.call("keep", "loose", VIP[v], PORT)
    first = lab.client.call("send_to", number, VIP[v], PORT)["server"]
    only = next(one for one in SERVERS[v] if one != first)
    lab.balancer.backends(SET, {10 * v + i: (only, SERVER_PORT) for i in range(3)}, UDP)
    assert lab.client.call("send_to", number, VIP[v], PORT)["server"] == only


@family
def test_the_way_back_is_written_again_when_evicted(lab: Lab, v: int) -> None:
    lab.service(v)
    number = lab.client.call("keep", "loose", VIP[v], PORT)
    lab.client.call("send_to", number, VIP[v], PORT)
    for key in [key for key, _ in lab.balancer.maps["axoneme_sockets"].items()]:
        if lb.SocketKey.unpack(key).side == lb.SOCKET_REAL:
            lab.balancer.maps["axoneme_sockets"].delete(key)
    assert lab.client.call("send_to", number, VIP[v], PORT)["from"] == [VIP[v], PORT]


@family
def test_new_sockets_are_spread_at_random(lab: Lab, v: int) -> None:
    lab.service(v)
    answer = lab.client.call("streams", VIP[v], PORT, 90)
    assert set(answer["servers"]) == set(SERVERS[v])
    assert min(answer["servers"].values()) >= 10


@family
def test_new_sockets_are_spread_by_maglev(lab: Lab, v: int) -> None:
    """The table, not the slots: those are broken."""
    lab.service(v, maglev_size=251)
    lab.balancer.clear("axoneme_lb_slots")
    lab.balancer.maglev(SET, [10 * v + i % 3 for i in range(251)])
    answer = lab.client.call("streams", VIP[v], PORT, 90)
    assert set(answer["servers"]) == set(SERVERS[v])
    assert min(answer["servers"].values()) >= 10


@family
def test_affinity_goes_by_network_namespace(lab: Lab, v: int) -> None:
    lab.service(v, flags=lb.LB_AFFINITY, affinity_seconds=600)
    for worker in (lab.client, lab.other):
        answer = worker.call("streams", VIP[v], PORT, 15)
        assert len(answer["servers"]) == 1
        assert worker.call("loose_datagram", VIP[v], PORT)["server"] in answer["servers"]
    clients = {key.client: key.socket for key in lab.balancer.affinities()}
    cookies = [worker.call("netns_cookie") for worker in (lab.client, lab.other)]
    assert clients == {cookie.to_bytes(8, "little") + bytes(8): 1 for cookie in cookies}


@family
def test_affinity_ends(lab: Lab, v: int) -> None:
    lab.service(v, flags=lb.LB_AFFINITY, affinity_seconds=5)
    lab.asks("stream", v)
    (key,) = lab.balancer.affinities()
    old = lb.LbAffinity(last_used_ns=1, backend_id=10 * v).pack()
    served = set()
    for _ in range(40):
        lab.balancer.maps["axoneme_affinity"].update(key.pack(), old)
        served.add(lab.asks("stream", v)["server"])
    assert served == set(SERVERS[v])


@family
def test_affinity_leaves_a_terminating_backend(lab: Lab, v: int) -> None:
    lab.service(v, flags=lb.LB_AFFINITY, affinity_seconds=600)
    first = lab.asks("stream", v)["server"]
    left = {10 * v + i: (one, SERVER_PORT) for i, one in enumerate(SERVERS[v]) if one != first}
    lab.balancer.backend(10 * v + SERVERS[v].index(first), first, SERVER_PORT, TCP, lb.BACKEND_TERMINATING)
    lab.balancer.clear("axoneme_lb_slots")
    lab.balancer.backends(SET, left, TCP)
    lab.balancer.frontend(VIP[v], PORT, TCP, lb.LbService(SET, 2, lb.LB_AFFINITY, 600))
    second = lab.asks("stream", v)["server"]
    assert second != first
    assert {lab.asks("stream", v)["server"] for _ in range(10)} == {second}


@pytest.mark.parametrize(
    ("v", "address"),
    [(4, "127.0.0.1"), (4, "0.0.0.0"), (6, "::1"), (6, "::"), (4, "::ffff:127.0.0.1"), (4, "::ffff:0.0.0.0")],
)
@calls
def test_the_nodes_own_namespace_reaches_node_ports_by_loopback(
    lab: Lab, v: int, address: str, call: str
) -> None:
    node_ip = {4: "192.0.2.7", 6: "2001:db8::7"}
    config = node.NodeConfig(base.address_bytes(node_ip[4]), base.address_bytes(node_ip[6]))
    lab.balancer.maps["axoneme_node"].update(base.number_key(0), config.pack())
    lab.service(v)
    for protocol in (TCP, UDP):
        lab.balancer.frontend(node_ip[v], 30080, protocol, lb.LbService(SET, 3))
    refusing = call if call != "loose_datagram" else "datagram"  # only connected ones are told
    assert lab.client.call(refusing, address, 30080)["errno"] == errno.ECONNREFUSED
    _, programs = loaded(lab.pins, node_netns_cookie=lab.client.call("netns_cookie"))
    swapped = {hook: programs[name] for name, hook in SOCKET_PROGRAMS.items()}
    try:
        for hook, program in swapped.items():
            lab.links[hook].update(program)
        answer = lab.client.call(call, address, 30080)
        assert answer["server"] in SERVERS[v]
        assert answer.get("peer", [address, 30080]) == [address, 30080]
        assert lab.other.call(refusing, address, 30080)["errno"] == errno.ECONNREFUSED
    finally:
        for name, hook in SOCKET_PROGRAMS.items():
            lab.links[hook].update(lab.programs[name])


@family
def test_no_connection_fails_while_programs_are_replaced(lab: Lab, v: int) -> None:
    lab.service(v)
    lab.client.begin("streams", VIP[v], PORT, 400)
    _, others = loaded(lab.pins)
    for number in range(100):
        for name, hook in SOCKET_PROGRAMS.items():
            lab.links[hook].update((others, lab.programs)[number % 2][name])
    answer = lab.client.finish()
    assert answer["failures"] == []
    assert sum(answer["servers"].values()) == 400


@family
def test_what_sockets_believe_survives_another_load(lab: Lab, v: int) -> None:
    lab.service(v)
    numbers = {kind: lab.client.call("keep", kind, VIP[v], PORT) for kind in ("stream", "datagram")}
    _, others = loaded(lab.pins)
    hooks = (CgroupHook.GETPEERNAME4, CgroupHook.GETPEERNAME6, CgroupHook.RECVMSG4, CgroupHook.RECVMSG6)
    for hook in hooks:
        name = f"axoneme_{hook.name.lower()}"
        lab.links[hook].update(others[name], expected=lab.programs[name])
        with pytest.raises(BpfError):
            lab.links[hook].update(others[name], expected=lab.programs[name])
    for number in numbers.values():
        assert lab.client.call("ask", number)["peer"] == [VIP[v], PORT]
    for hook in hooks:
        lab.links[hook].update(lab.programs[f"axoneme_{hook.name.lower()}"])


def test_a_pinned_link_is_found_again(lab: Lab) -> None:
    link = CgroupLink.create(lab.programs["axoneme_connect4"], cgroup=lab.cgroup, hook=CgroupHook.CONNECT4)
    link.pin(lab.pins / "link")
    state = link.state()
    assert (state.hook, state.program_id) == (
        CgroupHook.CONNECT4,
        lab.programs["axoneme_connect4"].program_id,
    )
    assert state.cgroup_id == lab.cgroup.stat().st_ino
    link.close()
    again = CgroupLink.open(lab.pins / "link")
    assert again.state() == state
    again.detach()
    again.detach()
    assert again.state().cgroup_id == 0
    again.close()
    (lab.pins / "link").unlink()


def test_attaching_to_no_cgroup_names_it(lab: Lab, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BpfError, match=str(folder)):
            CgroupLink.create(lab.programs["axoneme_connect4"], cgroup=folder, hook=CgroupHook.CONNECT4)
