"""Questions and answers by UDP between a workload and its node, counted: none may get lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock
from shim.maps import base, layout
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import NodeLab

ANY = PortBlock(0, 0, 0)
NODE = {4: "10.91.0.1", 6: "fd00:91::1"}
PORT = 7007

SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print('up', flush=True)
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(data, peer)
"""
CLIENT = """
import json, select, socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
s.settimeout(1)
sent = lost = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    sent += 1
    s.send(sent.to_bytes(8, 'big'))
    try:
        while int.from_bytes(s.recv(100), 'big') != sent:
            pass
    except (TimeoutError, OSError):
        lost += 1
    if sent == 20:
        print('up', flush=True)
print(json.dumps({'sent': sent, 'lost': lost, 'port': s.getsockname()[1]}))
"""


@dataclass
class Count:
    """What came of it, once the block is over."""

    sent: int = 0
    lost: int = 0
    port: int = 0
    running: bool = field(default=True)


def allow_all(pins: Path, ifindex: int, endpoint_id: int = 7) -> None:
    """Ingress is default deny with nothing allowed: what comes back passes by its connection alone."""
    inner = create_map(layout.POLICY_INNER)
    key = MapKey(Direction.EGRESS, 0, ANY)
    entry = MapEntry(action=Action.ALLOW, precedence=0xFEFFFF01)
    inner.update(layout.policy_key(key), layout.policy_entry(key, entry, cookie=0))
    outer = KernelMap.open(pins / layout.POLICY.name)
    outer.set_inner(layout.policy_outer_key(endpoint_id), inner)
    endpoint = layout.EndpointEntry(
        endpoint_id=endpoint_id,
        identity=5001,
        policy_generation=1,
        ipv4=base.address_bytes(f"10.91.0.{endpoint_id}")[12:],
        ipv6=base.address_bytes(f"fd00:91::{endpoint_id}"),
    )
    KernelMap.open(pins / layout.EP.name).update(layout.endpoint_key(ifindex), endpoint.pack())
    exact = KernelMap.open(pins / layout.IPEXACT.name)
    for address in NODE.values():
        exact.update(base.address_bytes(address), layout.IpcacheEntry(1).pack())
    for held in (inner, outer, exact):
        held.close()


def connect(lab: NodeLab, helper: HelperClient, endpoint_id: int = 7) -> tuple[int, str]:
    """An endpoint that may send; returns its interface's index and its namespace."""
    ips = (f"10.91.0.{endpoint_id}", f"fd00:91::{endpoint_id}")
    netns = lab.add_workload()
    made = helper.call(
        protocol.CreateInterface(endpoint_id=endpoint_id, netns=netns, interface_name="eth0", ips=ips)
    )
    index = int(made["ifindex"])
    allow_all(lab.pins, index, endpoint_id)
    helper.call(protocol.AttachEndpoint(endpoint_id=endpoint_id, ips=ips, mac=made["mac"]))
    return index, netns.rpartition("/")[2]


@contextmanager
def flood(lab: NodeLab, pod: str, family: int) -> Iterator[Count]:
    """Runs while the block does; counts are there afterwards."""
    words = (NODE[family], str(PORT))
    count = Count()
    with (
        _process(lab.name, SERVER, words) as server,
        _process(pod, CLIENT, words) as client,
    ):
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "up\n", "the flood never began"
            yield count
            rest, _ = client.communicate("stop\n", timeout=10)
            found = json.loads(rest)
            count.sent, count.lost, count.port, count.running = (
                *(found[k] for k in ("sent", "lost", "port")),
                False,
            )
        finally:
            for process in (client, server):
                process.kill()


@contextmanager
def _process(netns: str, code: str, words: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    command = ["nsenter", f"--net=/run/netns/{netns}", sys.executable, "-c", code, *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        if code is SERVER:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n", "the server never began"
        yield process
