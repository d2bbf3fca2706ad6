"""What the helper does for each request of its list; one method each, in the order of `protocol.REQUESTS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axoneme.lib.bpf.features import probe
from shim.privileged import interfaces, node, protocol
from shim.privileged.loader import ProgramLoader
from shim.privileged.server import Answer


class Operations:
    """The privileged operations of one node."""

    def __init__(self, *, bpffs: Path, pin_directory: Path) -> None:
        self._bpffs = bpffs
        self._loader = ProgramLoader(pin_directory)

    def handlers(self) -> dict[type[protocol.Request], Callable[[Any], Answer]]:
        """Request type → what to do."""
        return {
            protocol.Ping: lambda _: Answer(result={"pid": os.getpid()}),
            protocol.SetUpNode: self.set_up_node,
            protocol.LoadPrograms: self.load_programs,
            protocol.CreatePolicyMap: self.create_policy_map,
            protocol.OpenPolicyMap: self.open_policy_map,
            protocol.CreateInterface: self.create_interface,
            protocol.AttachEndpoint: self.attach_endpoint,
            protocol.DetachEndpoint: self.detach_endpoint,
            protocol.DeleteInterface: self.delete_interface,
            protocol.ListInterfaces: self.list_interfaces,
            protocol.SetRoutes: self.set_routes,
            protocol.ListRoutes: lambda _: Answer(result={"routes": node.list_routes()}),
            protocol.ProbeFeatures: self.probe_features,
        }

    def set_up_node(self, request: protocol.SetUpNode) -> Answer:
        """BPF file system, forwarding, router addresses."""
        node.mount_bpffs(self._bpffs)
        node.switch_forwarding_on()
        node.add_router_addresses(request.router_ips)
        return Answer()

    def load_programs(self, request: protocol.LoadPrograms) -> Answer:
        """Names of the programs."""
        return Answer(result={"programs": self._loader.load(replace=request.replace)})

    def create_policy_map(self, request: protocol.CreatePolicyMap) -> Answer:  # noqa: ARG002
        """The descriptor leaves with the answer; the helper keeps none."""
        return Answer(fds=[self._loader.create_policy_map().fd])

    def open_policy_map(self, request: protocol.OpenPolicyMap) -> Answer:
        """No descriptor when the endpoint is locked."""
        found = self._loader.open_policy_map(request.endpoint_id)
        return Answer(fds=[] if found is None else [found.fd])

    def create_interface(self, request: protocol.CreateInterface) -> Answer:
        """The pair, the node's side down."""
        made = interfaces.create(request.endpoint_id, request.netns, request.interface_name, request.ips)
        return Answer(result=made)

    def attach_endpoint(self, request: protocol.AttachEndpoint) -> Answer:
        """Programs first, traffic after."""
        self._loader.attach(request.endpoint_id, interfaces.ifindex_of(request.endpoint_id))
        interfaces.open_traffic(request.endpoint_id, request.ips, request.mac)
        return Answer()

    def detach_endpoint(self, request: protocol.DetachEndpoint) -> Answer:
        """Link down; the programs stay until the interface goes."""
        interfaces.close_traffic(request.endpoint_id)
        return Answer()

    def delete_interface(self, request: protocol.DeleteInterface) -> Answer:
        """The interface before its programs: it is never up without them."""
        interfaces.delete(request.endpoint_id)
        self._loader.detach(request.endpoint_id)
        return Answer()

    def list_interfaces(self, request: protocol.ListInterfaces) -> Answer:  # noqa: ARG002
        """With what the kernel says about the programs on each."""
        found = {
            str(number): {"ifindex": index, "attached": up and self._loader.whole(number, index)}
            for number, (index, up) in interfaces.listed().items()
        }
        return Answer(result={"interfaces": found})

    def set_routes(self, request: protocol.SetRoutes) -> Answer:
        """Faults are part of the answer."""
        return Answer(result={"faults": node.set_routes(request.upserts, request.removals)})

    def probe_features(self, request: protocol.ProbeFeatures) -> Answer:  # noqa: ARG002
        """`yes`, `no`, or a version."""
        found = probe(self._bpffs)
        names = [name for name in found.__dataclass_fields__ if name != "kernel"]
        features = {name: "yes" if getattr(found, name) else "no" for name in names}
        return Answer(result={"features": {"kernel": found.kernel, **features}})
