"""What policies refer to, read from the store: in any order of the rows, and whatever else lies there."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.kvstore.port import Store
from axoneme.lib.labels import workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction, SubjectPolicy
from axoneme.lib.tls import TlsFiles
from services.policy.records.occupancy import IDENTITY_PREFIX
from services.policy.rules import PolicyKey
from services.policy.settings import PolicySettings
from services.policy.state import PolicyState
from services.policy.store import store_key
from tests.contract.policyserver import CLUSTER, RunningPolicy, running_policy

CLIENT, SERVER, SELECTED = 300, 301, 302
SETTINGS = PolicySettings(cluster_name=CLUSTER, host_firewall=True)
CNP = "CiliumNetworkPolicy"


def labels_of(app: str) -> bytes:
    """A stored label set."""
    return workload_labels([f"app={app}"], namespace="default", cluster=CLUSTER).key.encode()


def policy(name: str, **spec: Any) -> tuple[str, bytes]:
    """A stored policy of the client."""
    whole = {"endpointSelector": {"matchLabels": {"app": "client"}}, **spec}
    kind = "CiliumClusterwideNetworkPolicy" if "nodeSelector" in spec else CNP
    if "nodeSelector" in spec:
        del whole["endpointSelector"]
    metadata = {"name": name} if kind != CNP else {"name": name, "namespace": "default"}
    one = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": whole}
    key = PolicyKey(kind, "" if kind != CNP else "default", name)
    return store_key(key), json.dumps(one).encode()


def tcp(port: int | str) -> list[dict[str, Any]]:
    """One TCP port."""
    return [{"ports": [{"port": str(port), "protocol": "TCP"}]}]


TO_SERVER, EDGE = {"matchLabels": {"app": "server"}}, {"matchLabels": {"role": "edge"}}
SERVICE = {"selector": None, "backends": ["10.96.0.7", "2001:db8::7"], "clusterIPs": ["10.0.0.1"]}
BY_SELECTOR = {"labels": {"team": "a"}, "selector": {"app": "selected"}, "backends": []}
GROUP = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumCIDRGroup",
    "metadata": {"name": "partners"},
    "spec": {"externalCIDRs": ["203.0.113.0/24", "2001:db8:5::/48"]},
}
PORTS = [{"Name": "web", "Port": 8080, "Protocol": "TCP"}]
ADDRESS = {"IP": "10.1.0.6", "ID": SERVER, "K8sNamespace": "default", "K8sPodName": "s", "NamedPorts": PORTS}
NODE = {"Name": "node1", "Cluster": CLUSTER, "Labels": {"role": "edge"}, "IPAddresses": []}
ROWS: dict[str, bytes] = dict(
    [
        (f"{IDENTITY_PREFIX}{CLIENT}", labels_of("client")),
        (f"{IDENTITY_PREFIX}{SERVER}", labels_of("server")),
        (f"{IDENTITY_PREFIX}{SELECTED}", labels_of("selected")),
        (f"{layout.SERVICES}default/plain", json.dumps(SERVICE).encode()),
        (f"{layout.SERVICES}default/chosen", json.dumps(BY_SELECTOR).encode()),
        (store_key(PolicyKey("CiliumCIDRGroup", "", "partners")), json.dumps(GROUP).encode()),
        (f"{layout.IPS}10.1.0.6", json.dumps(ADDRESS).encode()),
        (layout.node_key(CLUSTER, "node1"), json.dumps(NODE).encode()),
        policy(
            "services",
            egress=[
                {
                    "toServices": [{"k8sService": {"serviceName": "plain", "namespace": "default"}}],
                    "toPorts": tcp(1),
                },
                {"toServices": [{"k8sServiceSelector": {"selector": {"matchLabels": {"team": "a"}}}}]},
            ],
        ),
        policy("groups", egress=[{"toCIDRSet": [{"cidrGroupRef": "partners"}]}]),
        policy(
            "ports", egress=[{"toEndpoints": [{"matchLabels": {"app": "server"}}], "toPorts": tcp("web")}]
        ),
        policy(
            "host", nodeSelector={"matchLabels": {"role": "edge"}}, ingress=[{"fromEntities": ["health"]}]
        ),
    ]
)
BAD: dict[str, bytes] = {
    f"{layout.SERVICES}default/bad": b"[" * 100_000,
    f"{layout.SERVICES}default/bad2": b'{"backends": ["no address"]}',
    f"{layout.SERVICES}odd": b"{}",
    f"{layout.SERVICES}default/deep": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    f"{layout.IPS}not-an-address": b"{}",
    f"{layout.IPS}10.1.0.9": b'{"IP": "10.1.0.8", "ID": 300}',
    f"{layout.IPS}10.1.0.10": b"\xff",
    layout.node_key(CLUSTER, "node2"): b'{"Name": "other"}',
    layout.node_key("west", "node1"): b"{}",
    f"{IDENTITY_PREFIX}{'9' * 5000}": labels_of("server"),
    f"{IDENTITY_PREFIX}400": b"\xff;",
    f"{layout.SLAVES}{labels_of('server').decode()}/node1": b"9" * 5000,
    f"{layout.POLICY_PROGRESS}x": b'{"nodes": {"1": ["a"]}}',
}


def resolved(state: PolicyState) -> dict[str, SubjectPolicy | None]:
    """What the cluster's subjects get."""
    engine = state.engine
    return {"client": engine.subject(CLIENT), "server": engine.subject(SERVER), "host": engine.host("node1")}


async def feed(running: RunningPolicy, rows: Iterable[tuple[str, bytes]]) -> None:
    """Write rows one by one."""
    for key, value in rows:
        await running.store.put(key, value)
    await running.caught_up()


async def test_everything_is_read(policy_store: Store, tls_files: Callable[[str], TlsFiles]) -> None:
    """Services with and without a selector, groups, names and nodes; each family; and it goes away again."""
    async with running_policy(policy_store, tls_files, settings=SETTINGS) as running:
        await feed(running, ROWS.items())
        client = running.state.engine.subject(CLIENT)
        assert client is not None
        entries = finish(client, local_identities={}, named_ports={})
        assert lookup(entries, Direction.EGRESS, SELECTED, 6, 443).forwarded
        assert lookup(entries, Direction.EGRESS, SERVER, 6, 8080).forwarded
        assert not lookup(entries, Direction.EGRESS, SERVER, 6, 8081).forwarded
        include = {one.include for one in client.selectors.values() if hasattr(one, "include")}
        assert include == {("10.96.0.7/32", "2001:db8::7/128"), ("2001:db8:5::/48", "203.0.113.0/24")}
        host = running.state.engine.host("node1")
        assert host is not None
        assert {origin.name for origin in host.origins.values()} == {"host"}
        await running.store.delete(f"{layout.SERVICES}default/plain")
        await running.store.delete(f"{layout.IPS}10.1.0.6")
        await running.store.delete(layout.node_key(CLUSTER, "node1"))
        await running.caught_up()
        client = running.state.engine.subject(CLIENT)
        assert client is not None
        entries = finish(client, local_identities={}, named_ports={})
        assert not lookup(entries, Direction.EGRESS, SERVER, 6, 8080).forwarded
        assert running.state.engine.host("node1") is None
        assert running.state.addresses.records() == ()


async def test_names_follow_the_address(tls_files: Callable[[str], TlsFiles]) -> None:
    """To another identity; and away with a row that cannot be read any more."""
    key = f"{layout.IPS}10.1.0.6"
    async with running_policy(MemoryStore(), tls_files, settings=SETTINGS) as running:
        await feed(running, ROWS.items())

        def opened() -> set[int]:
            client = running.state.engine.subject(CLIENT)
            assert client is not None
            entries = finish(client, local_identities={}, named_ports={})
            numbers = (SERVER, SELECTED)
            return {one for one in numbers if lookup(entries, Direction.EGRESS, one, 6, 8080).forwarded}

        everyone = [{"toEndpoints": [{}], "toPorts": tcp("web")}]
        await feed(running, [policy("ports", egress=everyone), policy("services", egress=[{}])])
        assert opened() == {SERVER}
        await feed(running, [(key, json.dumps({**ADDRESS, "ID": SELECTED}).encode())])
        assert opened() == {SELECTED}
        await feed(running, [(key, b"{")])
        assert opened() == set()
        assert running.state.addresses.by_ip("10.1.0.6") is None


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_rows_converges(seed: int, tls_files: Callable[[str], TlsFiles]) -> None:
    """As a snapshot; one by one in any order, with rubbish between, some written twice or taken away."""
    rng = random.Random(seed)
    whole = MemoryStore()
    for key, value in ROWS.items():
        await whole.put(key, value)
    async with running_policy(whole, tls_files, settings=SETTINGS) as running:
        expected = resolved(running.state)
    rows = [*ROWS.items(), *BAD.items()]
    rng.shuffle(rows)
    store = MemoryStore()
    async with running_policy(store, tls_files, settings=SETTINGS) as running:
        for key, value in rows:
            if rng.random() < 0.3:
                await store.put(key, b"{}")
            await store.put(key, value)
            if rng.random() < 0.3:
                await store.delete(key)
                await store.put(key, value)
        await running.caught_up()
        assert resolved(running.state) == expected
        # And once more from a snapshot that holds the rubbish too.
        async with running_policy(store, tls_files, settings=SETTINGS, replica="b") as again:
            assert resolved(again.state) == expected


async def test_every_order_of_few_rows(tls_files: Callable[[str], TlsFiles]) -> None:
    """All permutations of a service, its policy and the identities that it is about."""
    keys = [f"{IDENTITY_PREFIX}{CLIENT}", f"{IDENTITY_PREFIX}{SELECTED}", f"{layout.SERVICES}default/chosen"]
    keys.append(store_key(PolicyKey(CNP, "default", "services")))
    found = []
    for order in itertools.permutations(keys):
        async with running_policy(MemoryStore(), tls_files, settings=SETTINGS) as running:
            await feed(running, [(key, ROWS[key]) for key in order])
            found.append(resolved(running.state))
    assert all(one == found[0] for one in found)
    assert found[0]["client"] is not None
    assert any(getattr(one.peer, "number", 0) == SELECTED for one in found[0]["client"].contributions)


async def test_a_restored_store_starts_over(tls_files: Callable[[str], TlsFiles]) -> None:
    """What the backup does not hold is gone, and old acknowledgements count for nothing."""
    store = MemoryStore()
    async with running_policy(store, tls_files, settings=SETTINGS) as running:
        await feed(running, ROWS.items())
        assert running.state.addresses.records()
        kept = f"{IDENTITY_PREFIX}{CLIENT}"
        row = await store.get(kept)
        assert row is not None
        revision = running.state.revision
        store.restore([row], 2)
        async with running_policy(store, tls_files, settings=SETTINGS, replica="b") as fresh:
            expected = resolved(fresh.state)
        while running.state.revision == revision:
            await running.state.moved()
        assert resolved(running.state) == expected
        assert running.state.addresses.records() == ()
        assert running.state.stored == {}
        assert running.state._standing.content_revision == row.mod_revision
