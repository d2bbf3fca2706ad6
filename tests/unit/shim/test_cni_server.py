"""The node's side of the CNI plugin on a node in memory; the plugin itself asks, over the real socket."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib.errors import Unavailable
from shim import cni
from shim.cnicommands import CniCommands
from shim.cnirequests import pod_name_of
from shim.cniserver import CniServer
from shim.endpoints import Endpoint, EndpointState
from tests.unit.shim.memorynode import MemoryNode, wanted
from tests.waiting import eventually


class Runtime:
    """A container runtime beside a memory node."""

    def __init__(self, node: MemoryNode, directory: Path) -> None:
        self.node, self.directory = node, directory
        self.problem: str | None = None
        self.commands = CniCommands(
            workloads=node.workloads,
            endpoints=node.endpoints,
            datapath=node.datapath,
            not_ready=lambda: self.problem,
            state_directory=directory / "state",
        )
        self.server = CniServer(self.commands)

    async def run(self, command: str, container: str = "c1", **fields: Any) -> tuple[int, Any]:
        """Exit code and output of the plugin; `args` are CNI_ARGS, the rest goes into the configuration."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": fields.pop("args", ""),
        }
        config = {
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "axoneme-cni",
            "runDirectory": str(self.directory),
            "stateDirectory": str(self.directory / "state"),
            **fields,
        }
        output = io.StringIO()
        code = await asyncio.to_thread(cni.run, environment, io.StringIO(json.dumps(config)), output)
        return code, json.loads(output.getvalue() or "null")

    def endpoints(self) -> list[Endpoint]:
        return list(self.node.endpoints)


@asynccontextmanager
async def runtime(directory: Path) -> AsyncIterator[Runtime]:
    made = Runtime(MemoryNode(), directory)
    async with made.server.serving(directory / "cni.sock"), asyncio.timeout(30):
        yield made


def pod(name: str) -> str:
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name}"


async def test_add_check_and_delete(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with runtime(socket_directory) as it:
        assert (socket_directory / "cni.sock").stat().st_mode & 0o777 == 0o600
        code, result = await it.run("ADD", args=pod("web"), labels={"app": "web"})
        assert code == 0, result
        [endpoint] = it.endpoints()
        assert endpoint.name == "shop/web"
        assert "k8s:app=web" in endpoint.labels.texts()
        assert (endpoint.cni_container, endpoint.cni_network) == ("c1", "pods")
        assert endpoint.published
        assert [one["address"] for one in result["ips"]] == ["10.1.0.2/32", "fd00:10:1::2/128"]
        assert Endpoint.load(json.loads(json.dumps(endpoint.dump()))) == endpoint
        monkeypatch.setattr(cni, "addresses_inside", lambda netns, interface: set(endpoint.ips))
        assert await it.run("CHECK", prevResult=result) == (0, None)
        for _ in range(2):
            assert await it.run("DEL") == (0, None)
        assert it.endpoints() == []
        assert (await it.run("CHECK", prevResult=result))[1]["code"] == 3


async def test_check_finds_what_is_gone(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        _, result = await it.run("ADD")
        [endpoint] = it.endpoints()
        await it.node.datapath.delete_interface(endpoint)
        code, answer = await it.run("CHECK", prevResult=result)
        assert (code, answer["code"]) == (1, 103)
        assert "is gone" in answer["msg"]
        await it.node.datapath.create_interface(endpoint)
        assert "program is missing" in (await it.run("CHECK", prevResult=result))[1]["msg"]
        it.node.endpoints.change(endpoint.endpoint_id, state=EndpointState.LOCKED, state_reason="no policy")
        assert "is locked: no policy" in (await it.run("CHECK", prevResult=result))[1]["msg"]


async def test_wanted_addresses_and_ports(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        mapping = {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"}
        silent = {"hostPort": 0, "containerPort": 81, "protocol": "tcp"}
        runtime_config = {"ips": ["10.1.0.77/24", "fd00:10:1::77"], "portMappings": [mapping, silent]}
        code, result = await it.run("ADD", runtimeConfig=runtime_config)
        assert code == 0, result
        [endpoint] = it.endpoints()
        assert endpoint.ips == ("10.1.0.77", "fd00:10:1::77")
        assert endpoint.host_ports == ((8080, 80, 6, ""),)
        for taken, code, words in (
            ({"ips": ["10.1.0.77"]}, 101, "endpoint 1"),
            ({"ips": ["fd00:10:1::77"]}, 101, "endpoint 1"),
            ({"portMappings": [mapping]}, 101, "host port 8080 leads to endpoint 1"),
            ({"ips": ["10.2.0.1"]}, 100, "outside the node's PodCIDRs"),
            ({"ips": ["fd00:10:1::1"]}, 100, "router's"),
            ({"portMappings": [{**mapping, "protocol": "icmp"}]}, 100, "none of tcp, udp and sctp"),
        ):
            _, answer = await it.run("ADD", "c2", runtimeConfig=taken)
            assert answer["code"] == code, answer
            assert words in answer["msg"]
        assert len(it.endpoints()) == 1
        await it.node.workloads.releases.retry()
        assert it.node.workloads.releases.pending == set()


async def test_an_addition_that_fails_leaves_nothing(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        it.node.default_policy = None
        code, answer = await it.run("ADD")
        assert (code, answer["code"]) == (1, 11)
        assert it.endpoints() == []


async def test_a_new_sandbox_ends_the_older_one_of_its_pod(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        await it.run("ADD", "c1", args=pod("web"))
        [first] = it.endpoints()
        code, answer = await it.run("ADD", "c2", args=pod("web"))
        assert code == 0, answer
        [second] = it.endpoints()
        assert (second.cni_container, second.endpoint_id) == ("c2", first.endpoint_id + 1)
        assert await it.run("DEL", "c1") == (0, None)
        assert it.endpoints() == [second]


async def test_an_endpoint_of_the_node_api_is_never_replaced(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        own = await it.node.workloads.add(wanted("web"))
        _, answer = await it.run("ADD", args="K8S_POD_NAME=web;K8S_POD_NAMESPACE=default")
        assert answer["code"] == 101
        assert it.endpoints() == [own]


async def test_adopted_interfaces_keep_their_addresses(socket_directory: Path) -> None:
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "veth9"}, {"name": "eth0", "sandbox": "/run/netns/c1"}],
        "ips": [
            {"address": "172.30.0.5/24", "interface": 1},
            {"address": "fd00:10:1::2/64", "interface": 1},
        ],
    }
    async with runtime(socket_directory) as it:
        assert await it.run("ADD", prevResult=previous) == (0, previous)
        [endpoint] = it.endpoints()
        assert endpoint.adopted
        assert endpoint.ips == ("172.30.0.5", "fd00:10:1::2")
        assert endpoint.interface_name.startswith("veth")
        assert set(it.node.services.published) == {"fd00:10:1::2"}, "other nodes would refuse the foreign one"
        await it.run("ADD", "c2")
        assert it.endpoints()[1].ips == ("10.1.0.2", "fd00:10:1::3")
        _, answer = await it.run("ADD", "c3", prevResult=previous)
        assert answer["code"] == 101
        await it.run("DEL", "c2")
        await it.run("DEL")
        assert it.node.services.published == {}


async def test_gc_removes_attachments_of_its_network_only(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        for container, network in (("c1", "pods"), ("c2", "pods"), ("c3", "other")):
            await it.run("ADD", container, name=network)
        own = await it.node.workloads.add(wanted("web"))
        valid = [{"containerID": "c1", "ifname": "eth0"}]
        assert await it.run("GC", **{"cni.dev/valid-attachments": valid}) == (0, None)
        assert [e.cni_container for e in it.endpoints()] == ["c1", "c3", own.cni_container]


async def test_a_removal_without_a_helper_is_remembered(
    socket_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with runtime(socket_directory) as it:
        await it.run("ADD")

        async def refuse(endpoint: Endpoint) -> None:
            raise Unavailable("no helper")

        with monkeypatch.context() as patch:
            patch.setattr(it.node.datapath, "delete_interface", refuse)
            assert await it.run("DEL") == (0, None)
        assert [e.state for e in it.endpoints()] == [EndpointState.TERMINATING]
        await it.node.workloads.finish_removals()
        assert it.endpoints() == []


async def test_notes_of_a_time_without_a_shim_are_worked_off(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        await it.run("ADD")
        await it.run("ADD", "c2")
    assert await it.run("DEL") == (0, None)
    assert len(it.endpoints()) == 2
    await it.commands.work_off_notes()
    assert [e.cni_container for e in it.endpoints()] == ["c2"]
    assert list((socket_directory / "state" / "cni").iterdir()) == []
    assert await it.run("DEL", "c2") == (0, None)
    async with it.server.serving(socket_directory / "cni.sock"):
        code, answer = await it.run("ADD", "c2")
        assert code == 0, answer
        await it.commands.work_off_notes()
    assert len(it.endpoints()) == 1, "the note was worked off before the addition"
    assert it.endpoints()[0].endpoint_id == 3


async def test_a_removal_waits_for_the_addition_that_it_undoes(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        gate, entered = asyncio.Event(), asyncio.Event()
        allocate = it.node.services.allocate_identity

        async def slow(*words: Any) -> int:
            entered.set()
            await gate.wait()
            return await allocate(*words)

        it.node.services.allocate_identity = slow  # type: ignore[method-assign]
        adding = asyncio.ensure_future(it.run("ADD"))
        await entered.wait()
        deleting = asyncio.ensure_future(it.run("DEL"))
        await eventually(lambda: it.server._running == 2)
        gate.set()
        assert (await adding)[0] == 0
        assert await deleting == (0, None)
        assert it.endpoints() == []


async def test_status_and_bad_requests(socket_directory: Path) -> None:
    async with runtime(socket_directory) as it:
        assert await it.run("STATUS") == (0, None)
        it.problem = "not registered"
        code, answer = await it.run("STATUS")
        assert (code, answer["code"], answer["msg"]) == (1, 50, "not registered")
        for request in ({"command": "JOIN", "version": 1}, {"command": "ADD", "version": 1}, {}):
            assert (await it.server.answer(request))["code"] == 100
        reader, writer = await asyncio.open_unix_connection(str(socket_directory / "cni.sock"))
        writer.write(b"\xff\xff\xff\xff")
        assert await reader.read() == b"", "an impossible length is not waited for"
        writer.close()


@pytest.mark.parametrize("container", ["0123abcd", "A_b", "x" * 300])
def test_containers_without_a_pod_get_a_name(container: str) -> None:
    name = pod_name_of(container)
    assert len(name) <= 253
    assert name == name.lower()
    assert (name == container) is (container == "0123abcd")
    assert pod_name_of("a_b") != pod_name_of("a-b")
