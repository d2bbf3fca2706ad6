"""What reconcilers write to: BPF maps (one, or the ipcache's two) and the routes behind the helper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from axoneme.lib.bpf.errors import BpfError, MapFullError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AxonemeError
from shim.ipcache import IpcacheValue, is_host_prefix
from shim.maps import base, layout
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from shim.reconciler import WriteFault

_BATCH = 4096


class MapTable:
    """One BPF map, keys and values as bytes."""

    def __init__(self, bpf_map: BpfMap) -> None:
        self.map = bpf_map

    def items(self) -> Iterable[tuple[bytes, bytes]]:
        """Everything in the map."""
        return self.map.items()

    def upsert(self, pairs: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, WriteFault]:
        """Writes in batches; a batch that fails is repeated one by one, so that only the bad keys fail."""
        faults: dict[bytes, WriteFault] = {}
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            try:
                self.map.update_batch(batch)
            except BpfError:
                faults.update(self._one_by_one(batch))
        return faults

    def remove(self, keys: Sequence[bytes]) -> Mapping[bytes, WriteFault]:
        """Removes keys; absent ones are fine."""
        faults: dict[bytes, WriteFault] = {}
        for key in keys:
            try:
                self.map.delete(key)
            except BpfError as error:
                faults[key] = _fault(error)
        return faults

    def _one_by_one(self, pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, WriteFault]:
        faults: dict[bytes, WriteFault] = {}
        for key, value in pairs:
            try:
                self.map.update(key, value)
            except BpfError as error:
                faults[key] = _fault(error)
        return faults


class IpcacheTable:
    """Prefix → identity over two maps: single addresses in the hash, shorter prefixes in the trie."""

    def __init__(self, exact: BpfMap, trie: BpfMap) -> None:
        self.exact, self.trie = MapTable(exact), MapTable(trie)

    def items(self) -> Iterable[tuple[str, IpcacheValue]]:
        """Everything in both maps."""
        for key, value in self.exact.items():
            yield exact_prefix(key), decode_value(value)
        for key, value in self.trie.items():
            yield str(base.IpcacheKey.unpack(key).network()), decode_value(value)

    def upsert(self, pairs: Sequence[tuple[str, IpcacheValue]]) -> Mapping[str, WriteFault]:
        """Writes each pair to its map."""
        return self._split([(prefix, encode_value(value)) for prefix, value in pairs], remove=False)

    def remove(self, keys: Sequence[str]) -> Mapping[str, WriteFault]:
        """Removes each prefix from its map."""
        return self._split([(prefix, b"") for prefix in keys], remove=True)

    def _split(self, pairs: Sequence[tuple[str, bytes]], *, remove: bool) -> dict[str, WriteFault]:
        faults: dict[str, WriteFault] = {}
        for table, exact in ((self.exact, True), (self.trie, False)):
            prefix_by_key = {ipcache_key(p): p for p, _ in pairs if is_host_prefix(p) is exact}
            if remove:
                found = table.remove(list(prefix_by_key))
            else:
                found = table.upsert([(ipcache_key(p), v) for p, v in pairs if is_host_prefix(p) is exact])
            faults.update({prefix_by_key[key]: fault for key, fault in found.items()})
        return faults


class RouteTable:
    """Routes to PodCIDRs, written by the privileged helper."""

    def __init__(self, helper: HelperClient) -> None:
        self._helper = helper

    def items(self) -> Iterable[tuple[str, str]]:
        """Routes that the helper made. Raises Unavailable."""
        return list(self._helper.call(protocol.ListRoutes())["routes"].items())

    def upsert(self, pairs: Sequence[tuple[str, str]]) -> Mapping[str, WriteFault]:
        """Writes routes."""
        return self._set(dict(pairs), ())

    def remove(self, keys: Sequence[str]) -> Mapping[str, WriteFault]:
        """Removes routes; absent ones are fine."""
        return self._set({}, tuple(keys))

    def _set(self, upserts: dict[str, str], removals: tuple[str, ...]) -> Mapping[str, WriteFault]:
        faults: dict[str, WriteFault] = {}
        keys = [*upserts, *removals]
        for start in range(0, len(keys), protocol.MAX_ROUTES):
            part = keys[start : start + protocol.MAX_ROUTES]
            request = protocol.SetRoutes(
                upserts={key: upserts[key] for key in part if key in upserts},
                removals=tuple(key for key in part if key not in upserts),
            )
            try:
                answer = self._helper.call(request)["faults"]
            except AxonemeError as error:
                answer = dict.fromkeys(part, error.message)
            faults.update({key: WriteFault(text) for key, text in answer.items()})
        return faults


class MemoryRoutes:
    """Routes of a simulated node."""

    def __init__(self) -> None:
        self._routes: dict[str, str] = {}

    def items(self) -> Iterable[tuple[str, str]]:
        """All routes."""
        return list(self._routes.items())

    def upsert(self, pairs: Sequence[tuple[str, str]]) -> Mapping[str, WriteFault]:
        """Writes routes."""
        self._routes.update(pairs)
        return {}

    def remove(self, keys: Sequence[str]) -> Mapping[str, WriteFault]:
        """Removes routes."""
        for key in keys:
            self._routes.pop(key, None)
        return {}


def ipcache_key(prefix: str) -> bytes:
    """The key of a prefix in its map: 16 bytes of an address, or a key of the trie."""
    if is_host_prefix(prefix):
        return base.address_bytes(prefix.partition("/")[0])
    return base.IpcacheKey.of(prefix).pack()


def exact_prefix(key: bytes) -> str:
    """The prefix of a key of the exact-address hash."""
    address = base.address_from_bytes(key)
    return f"{address}/{address.max_prefixlen}"


def encode_value(value: IpcacheValue) -> bytes:
    """Bytes of an ipcache entry."""
    tunnel = base.address_bytes(value.tunnel_endpoint) if value.tunnel_endpoint else base.NO_ADDRESS
    return layout.IpcacheEntry(value.identity, 0, tunnel, value.encryption_key).pack()


def decode_value(raw: bytes) -> IpcacheValue:
    """Inverse of `encode_value`."""
    entry = layout.IpcacheEntry.unpack(raw)
    has_tunnel = entry.tunnel_endpoint != base.NO_ADDRESS
    tunnel = str(base.address_from_bytes(entry.tunnel_endpoint)) if has_tunnel else ""
    return IpcacheValue(identity=entry.identity, tunnel_endpoint=tunnel, encryption_key=entry.encrypt_key)


def _fault(error: BpfError) -> WriteFault:
    return WriteFault(str(error), full=isinstance(error, MapFullError))
