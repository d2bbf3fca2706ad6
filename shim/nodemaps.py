"""The maps that describe the node, kept as `shim.nodeconfig` computes them: written, audited, tried again.

What an earlier life wrote stays in force until something else is known: the description until the network is
set up, addresses of nodes until the node stream was complete once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import Unavailable
from shim import nodeconfig
from shim.config import ShimConfig
from shim.endpoints import Endpoint
from shim.maps import base
from shim.maps import node as layout
from shim.network import NetworkFacts
from shim.reconciler import Reconciler
from shim.routes import NodeEntry
from shim.tables import MapTable

_ONLY_KEY: Final = base.number_key(0)


class NodeMaps:
    """`axoneme_node`, `axoneme_nodeips` and `axoneme_nomasq`."""

    def __init__(self, cfg: ShimConfig, maps: Mapping[str, BpfMap], *, clock: Callable[[], float]) -> None:
        self._cfg = cfg
        self._facts: NetworkFacts | None = None
        self._features: Mapping[str, str] = {}
        self._generation, self._enforce_host, self._proxied = 0, False, False
        self._complete = False

        def reconciler(name: str) -> Reconciler[bytes, bytes]:
            return Reconciler(name, MapTable(maps[name]), clock=clock)

        self._node = reconciler(layout.NODE.name)
        self._addresses = reconciler(layout.NODE_IPS.name)
        self._exclusions = reconciler(layout.NO_MASQUERADE.name)
        self._all = (self._node, self._addresses, self._exclusions)

    def load(self) -> None:
        """Reads what an earlier life left: its generation of the host's policy, whether answers may be the
        proxy's."""
        for one in self._all:
            one.load()
        raw = self._node.actual.get(_ONLY_KEY)
        config = layout.NodeConfig.unpack(raw) if raw else layout.NodeConfig()
        self._generation = config.host_policy_generation
        self._proxied = bool(config.flags & layout.NODE_PROXY)
        self._exclusions.put(nodeconfig.unmasqueraded(self._cfg.native_routing_cidrs))
        self._exclusions.flush()
        self._exclusions.prune()
        self._exclusions.flush()

    @property
    def host_generation(self) -> int:
        """Generation of the host's policy in the kernel; 0 when it never had one."""
        return self._generation

    @property
    def judges_host(self) -> bool:
        """Whether the programs judge the node's own packets."""
        raw = self._node.actual.get(_ONLY_KEY)
        return raw is not None and bool(layout.NodeConfig.unpack(raw).flags & layout.NODE_HOST_FIREWALL)

    def set_network(self, facts: NetworkFacts) -> None:
        """The kernel has made the network: the programs may go by it."""
        self._facts = facts
        self._describe()

    def set_features(self, features: Mapping[str, str]) -> None:
        """What the kernel can do was probed."""
        self._features = features
        self._describe()

    def set_proxied(self, *, on: bool) -> None:
        """Whether any answer may be the DNS proxy's (NODE_PROXY)."""
        if on is not self._proxied:
            self._proxied = on
            self._describe()

    def write_host(self, host: Endpoint) -> None:
        """The host's map is in place and has a new generation. Raises Unavailable when the kernel refuses."""
        self._generation, self._enforce_host = host.policy_generation, True
        self._describe()
        fault = self._node.faults().get(_ONLY_KEY)
        if fault is not None:
            raise Unavailable(fault.message, reason="MAP_WRITE_FAILED")

    def set_nodes(self, nodes: Iterable[NodeEntry], own: NodeEntry, *, complete: bool) -> None:
        """The nodes of all clusters; what is not among them goes once they were complete."""
        wanted = nodeconfig.node_addresses(nodes, own)
        self._complete = self._complete or complete
        one = self._addresses
        one.put({key: value for key, value in wanted.items() if one.desired.get(key) != value})
        one.discard([key for key in one.desired if key not in wanted])
        if complete:
            one.prune()
        one.flush()

    def next_due(self) -> float | None:
        """Time of the next try, by the injected clock."""
        return min((due for one in self._all if (due := one.next_due()) is not None), default=None)

    def flush(self) -> None:
        """Tries again what is due."""
        for one in self._all:
            one.flush()

    async def audit(self) -> list[str]:
        """Compares and repairs; returns what differed."""
        found = [("axoneme_node", "description", what) for _, what in self._node.audit(prune=False)]
        for key, what in self._addresses.audit(prune=self._complete):
            found.append((self._addresses.name, str(base.address_from_bytes(key)), what))
        for key, what in self._exclusions.audit(prune=True):
            found.append((self._exclusions.name, str(base.IpcacheKey.unpack(key).network()), what))
        return [f"{name}: {key}: {what}" for name, key, what in found]

    def problems(self) -> list[str]:
        """What is not in the kernel, in words."""
        found = []
        for one in self._all:
            messages = [fault.message for fault in one.faults().values()]
            if messages:
                what = f"{len(messages)} entries of {one.name} are not in the kernel"
                found.append(f"{what}: {messages[0]}; they are tried again")
        return found

    def _describe(self) -> None:
        """Before the network is known an earlier life's devices may be gone, so nothing is written."""
        if self._facts is None:
            return
        config = nodeconfig.node_config(
            self._cfg,
            self._facts,
            self._features,
            generation=self._generation,
            enforce_host=self._enforce_host,
            proxied=self._proxied,
        )
        self._node.put({_ONLY_KEY: config.pack()})
        self._node.flush()
