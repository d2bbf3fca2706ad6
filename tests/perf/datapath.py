"""Time of the endpoint program for one packet, by BPF_PROG_TEST_RUN: `python -m tests.perf.datapath`.

60,000 prefixes in the ipcache, 16,000 entries in the policy map. Goals (ARCHITECTURE §9): established at most
60 ns, a new flow at most 300 ns. An ARP frame shows what a test run itself costs.
"""

from __future__ import annotations

import ipaddress
import os
import statistics
from collections.abc import Callable, Iterator

from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, one_port
from shim.bpf.compile import CompilerMissing, compile_objects
from shim.maps import base, layout
from tests.bpf import packets as p
from tests.bpf.harness import PASSED, POD, Datapath
from tests.bpf.servicescene import FRONTEND, Services
from tests.perf.result import CannotRunError, Result, table

ROUNDS = 5
PREFIXES, ENTRIES = 60_000, 16_000
REPEAT_ESTABLISHED = 200_000
REPEAT_NEW = 10_000  # two events each: more would not fit into the ring, and a full ring is cheaper
SINGLE_RUNS = 2_000
FIRST_IDENTITY = 20_000
OUT = Direction.EGRESS


def peer(v: int, index: int) -> str:
    """The `index`-th known prefix's first address."""
    if v == 4:
        return str(ipaddress.IPv4Address(0x64000000 + (index << 8)))
    return str(ipaddress.IPv6Address((0xFD99 << 112) + (index << 64)))


def fill(datapath: Datapath) -> None:
    """Prefixes of both families, and a policy that names thousands of identities and ports."""
    prefixes = []
    for index in range(PREFIXES // 2):
        value = layout.IpcacheEntry(FIRST_IDENTITY + index).pack()
        for v, bits in ((4, 24), (6, 64)):
            key = base.IpcacheKey.of(f"{peer(v, index)}/{bits}").pack()
            prefixes.append((key, value))
    datapath.maps["axoneme_ipcache"].update_batch(prefixes)
    entry = MapEntry(action=Action.ALLOW, precedence=0xFEFFFF01)
    entries = {
        MapKey(OUT, FIRST_IDENTITY + index, one_port(p.TCP, port)): entry
        for index in range(ENTRIES // 4)
        for port in (80, 443, 8080, 9090)
    }
    datapath.policy(entries)


def frame(v: int, index: int, flags: int, source_port: int = 1000) -> bytes:
    return p.packet(POD[v], peer(v, index), p.TCP, p.tcp(source_port, 8080, flags))


def established(datapath: Datapath, v: int) -> float:
    """Packets of one connection, no event."""
    datapath.forget_connections()
    assert datapath.send(frame(v, 7, p.SYN)).passed
    run = datapath.programs["axoneme_from_ep"].test_run(frame(v, 7, p.ACK), repeat=REPEAT_ESTABLISHED)
    assert run.return_value == PASSED
    return run.duration_ns


def reply(datapath: Datapath, v: int) -> float:
    """Packets against the direction of one connection: the second of two look-ups finds it."""
    datapath.forget_connections()
    assert datapath.send(frame(v, 7, p.SYN)).passed
    back = p.packet(peer(v, 7), POD[v], p.TCP, p.tcp(8080, 1000, p.ACK))
    run = datapath.programs["axoneme_to_ep"].test_run(back, repeat=REPEAT_ESTABLISHED)
    assert run.return_value == PASSED
    return run.duration_ns


def new(datapath: Datapath, v: int) -> float:
    """A flow that is new each time: after SYN with RST, the next SYN opens another connection."""
    datapath.forget_connections()
    datapath.drain()
    run = datapath.programs["axoneme_from_ep"].test_run(frame(v, 7, p.SYN | p.RST), repeat=REPEAT_NEW)
    assert run.return_value == PASSED
    assert len(datapath.drain()) == 2 * REPEAT_NEW
    return run.duration_ns


def new_once(datapath: Datapath, v: int) -> float:
    """Different flows, one run each (caches cold, the clock's own cost included): median of 2,000."""
    datapath.forget_connections()
    program = datapath.programs["axoneme_from_ep"]
    frames = [frame(v, index, p.SYN, 2000 + index) for index in range(2_000)]
    runs = [program.test_run(one).duration_ns for one in frames]
    datapath.drain()
    return statistics.median(runs)


def new_known(datapath: Datapath, v: int) -> float:
    """As `new`, to an address that is known by itself, as every pod's is."""
    peer_address = peer(v, 7)
    datapath.identity(f"{peer_address}/{32 if v == 4 else 128}", FIRST_IDENTITY + 7)
    try:
        return new(datapath, v)
    finally:
        datapath.clear("axoneme_ipexact")


def translated(datapath: Datapath, v: int) -> float:
    """Packets of one connection to a service: four look-ups, then other addresses, ports and checksums."""
    datapath.forget_connections()
    services = Services(datapath)
    services.add(FRONTEND[v], p.TCP, [(peer(v, 7), 8080)])
    opening, more = (p.packet(POD[v], FRONTEND[v], p.TCP, p.tcp(1000, 80, one)) for one in (p.SYN, p.ACK))
    assert datapath.send(opening).passed
    # A test run repeats on what the last round left: only a packet that a round leaves alone can be repeated.
    runs = [datapath.programs["axoneme_from_ep"].test_run(more) for _ in range(SINGLE_RUNS)]
    assert all(run.return_value == PASSED for run in runs)
    return statistics.median(run.duration_ns for run in runs)


def single(datapath: Datapath, v: int) -> float:
    """The same for a connection without a service, to compare: single runs carry the clock's own cost."""
    datapath.forget_connections()
    assert datapath.send(frame(v, 7, p.SYN)).passed
    program = datapath.programs["axoneme_from_ep"]
    return statistics.median(program.test_run(frame(v, 7, p.ACK)).duration_ns for _ in range(SINGLE_RUNS))


def bypass(datapath: Datapath, _v: int) -> float:
    """An ARP frame: entry, endpoint look-up, counter."""
    program = datapath.programs["axoneme_from_ep"]
    return program.test_run(p.ethernet(bytes(60), ethertype=0x0806), repeat=REPEAT_ESTABLISHED).duration_ns


CASES: list[tuple[str, str, Callable[[Datapath, int], float]]] = [
    ("bypass (ARP)", "", bypass),
    ("established, unchanged generation", "<= 60", established),
    ("reply of an established connection", "", reply),
    ("new flow with its two events", "<= 300", new),
    ("new flow to a pod with its two events", "", new_known),
    ("new flow, cold, single runs", "", new_once),
    ("established, single runs", "", single),
    ("established, to a service, single runs", "", translated),
]


def run() -> Iterator[Result]:
    """All figures."""
    if os.geteuid() != 0:
        raise CannotRunError("BPF test runs need root")
    try:
        compile_objects()
    except CompilerMissing as error:
        raise CannotRunError(str(error)) from error
    datapath = Datapath()
    fill(datapath)
    for name, goal, case in CASES:
        for v in (4, 6):
            values = [case(datapath, v) for _ in range(ROUNDS)]
            yield Result(name=f"datapath: {name}, IPv{v}", unit="ns/packet", values=values, goal=goal)
    datapath.close()


if __name__ == "__main__":
    print(table(run()))
