"""Who is behind an address, as the nodes of the context know it: pods by endpoint, the rest by ipcache."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from axoneme.lib.errors import AxonemeError
from axoneme.lib.identities import name_of
from shim.nodeaccess import endpoints_of, nodes_of, pages

if TYPE_CHECKING:
    from axoneme.api.node.v1 import node_pb2
    from axoneme.client.sync import Client

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Names:
    """Address → name, read once."""

    def __init__(self) -> None:
        self.problem = ""
        self._pods: dict[str, str] = {}
        self._identities: dict[Network, int] = {}

    @classmethod
    def read(cls, client: Client) -> Names:
        """From every node that answers; `problem` says which did not."""
        names = cls()
        for node in nodes_of(client, ""):
            try:
                names.add_pods((f"{e.namespace}/{e.pod_name}", e.ips) for e in endpoints_of(client, node))
                names.add_prefixes((e.prefix, e.identity) for e in _ipcache(client, node))
            except AxonemeError as error:
                names.problem = f"node {node} does not answer, so its pods have no names: {error}"
        return names

    def add_pods(self, pods: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Names with their addresses."""
        self._pods.update((ip, name) for name, ips in pods for ip in ips)

    def add_prefixes(self, prefixes: Iterable[tuple[str, int]]) -> None:
        """Prefixes with their identities."""
        self._identities.update((ipaddress.ip_network(prefix), number) for prefix, number in prefixes)

    def of(self, address: str) -> str:
        """The pod, else the name of the identity, else nothing."""
        pod = self._pods.get(address)
        if pod is not None:
            return pod
        host = ipaddress.ip_network(address)
        for length in range(host.prefixlen, -1, -1):
            number = self._identities.get(host.supernet(new_prefix=length))
            if number is not None:
                return name_of(number)
        return ""

    def addresses(self, pod: str) -> list[str]:
        """Addresses of a pod, given as NAME or NAMESPACE/NAME."""
        return sorted(ip for ip, name in self._pods.items() if pod in (name, name.partition("/")[2]))


def _ipcache(client: Client, node: str) -> Iterator[node_pb2.IpcacheMapEntry]:
    from axoneme.api.node.v1 import node_pb2

    stub = client.node(node)
    return pages(lambda token: stub.ListIpcache(node_pb2.ListIpcacheRequest(page_token=token)), "entries")
