"""Agent events of the ipcache: which identity is behind a prefix from now on."""

from __future__ import annotations

from functools import partial

from google.protobuf.wrappers_pb2 import UInt32Value

from axoneme.api.hubble.flow import flow_pb2
from shim.agentevents.log import AgentEventLog
from shim.ipcache import Contribution, IpcacheMerge, IpcacheValue


class AddressEvents:
    """Hears of each value that shows from now on."""

    def __init__(self, log: AgentEventLog, merge: IpcacheMerge) -> None:
        self._log = log
        merge.on_change = self._changed

    def _changed(self, prefix: str, before: IpcacheValue | None, winner: Contribution | None) -> None:
        if winner is not None:
            self._log.add(partial(upserted, prefix, before, winner))
        elif before is not None:
            self._log.add(partial(deleted, prefix, before))


def upserted(prefix: str, before: IpcacheValue | None, winner: Contribution) -> flow_pb2.AgentEvent:
    """Another identity or another way to a prefix."""
    value = winner.value
    update = flow_pb2.IPCacheNotification(
        cidr=prefix,
        identity=value.identity,
        old_identity=UInt32Value(value=before.identity) if before is not None else None,
        host_ip=value.tunnel_endpoint,
        old_host_ip=before.tunnel_endpoint if before is not None else "",
        encrypt_key=value.encryption_key,
        namespace=winner.namespace,
        pod_name=winner.pod_name,
    )
    return flow_pb2.AgentEvent(type=flow_pb2.IPCACHE_UPSERTED, ipcache_update=update)


def deleted(prefix: str, before: IpcacheValue) -> flow_pb2.AgentEvent:
    """Nobody speaks about a prefix any more."""
    update = flow_pb2.IPCacheNotification(
        cidr=prefix,
        identity=before.identity,
        host_ip=before.tunnel_endpoint,
        encrypt_key=before.encryption_key,
    )
    return flow_pb2.AgentEvent(type=flow_pb2.IPCACHE_DELETED, ipcache_update=update)
