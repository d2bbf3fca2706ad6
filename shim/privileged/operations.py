"""What the helper does for each request of its list; one method each, in the order of `protocol.REQUESTS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from axoneme.lib.bpf.create import create_map
from shim.maps import base, layout, lb
from shim.privileged import health, interfaces, namespaces, node, probing, protocol
from shim.privileged.adopted import AdoptedInterfaces
from shim.privileged.catalogue import ENDPOINT, HOST, PROGRAMS
from shim.privileged.loader import ProgramLoader
from shim.privileged.nodenetwork import NodeNetwork
from shim.privileged.server import Answer


class Operations:
    """The privileged operations of one node."""

    def __init__(self, *, bpffs: Path, pin_directory: Path) -> None:
        self._bpffs = bpffs
        self._loader = ProgramLoader(pin_directory)
        self._network = NodeNetwork(self._loader, pin_directory)
        self._adopted = AdoptedInterfaces(pin_directory / "adopted")

    def handlers(self) -> dict[type[protocol.Request], Callable[[Any], Answer]]:
        """Request type → what to do."""
        return {
            protocol.Ping: lambda _: Answer(result={"pid": os.getpid()}),
            protocol.SetUpNode: self.set_up_node,
            protocol.LoadPrograms: self.load_programs,
            protocol.SetUpNetwork: self.set_up_network,
            protocol.CreatePolicyMap: self.create_policy_map,
            protocol.OpenPolicyMap: self.open_policy_map,
            protocol.CreateMaglevTable: self.create_maglev_table,
            protocol.OpenMaglevTable: self.open_maglev_table,
            protocol.HealthListener: self.health_listener,
            protocol.CreateInterface: self.create_interface,
            protocol.AdoptInterface: self.adopt_interface,
            protocol.NetnsCookie: self.netns_cookie,
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
        return Answer(result={"programs": self._loader.load(request)})

    def set_up_network(self, request: protocol.SetUpNetwork) -> Answer:
        """Parts that cannot be had are part of the answer."""
        places = {str(number): index for number, (index, _) in self._listed().items()}
        return Answer(result=self._network.set_up(request, places))

    def create_policy_map(self, request: protocol.CreatePolicyMap) -> Answer:  # noqa: ARG002
        """The descriptor leaves with the answer; the helper keeps none."""
        return Answer(fds=[self._loader.create_policy_map().fd])

    def open_policy_map(self, request: protocol.OpenPolicyMap) -> Answer:
        """No descriptor when the endpoint is locked."""
        key = layout.policy_outer_key(request.holder)
        found = self._loader.open_inner(layout.POLICY.name, key)
        return Answer(fds=[] if found is None else [found.fd])

    def create_maglev_table(self, request: protocol.CreateMaglevTable) -> Answer:
        """As `create_policy_map`."""
        return Answer(fds=[create_map(replace(lb.MAGLEV_INNER, max_entries=request.size)).fd])

    def open_maglev_table(self, request: protocol.OpenMaglevTable) -> Answer:
        """No descriptor when the set has no table."""
        found = self._loader.open_inner(lb.MAGLEV.name, base.number_key(request.set_id))
        return Answer(fds=[] if found is None else [found.fd])

    def health_listener(self, request: protocol.HealthListener) -> Answer:
        """The sockets leave with the answer."""
        return Answer(fds=health.listen(self._network.health_name, request.ips, request.port))

    def create_interface(self, request: protocol.CreateInterface) -> Answer:
        """The pair, the node's side down."""
        made = interfaces.create(
            request.endpoint_id, request.netns, request.interface_name, request.ips, request.mtu
        )
        return Answer(result=made)

    def adopt_interface(self, request: protocol.AdoptInterface) -> Answer:
        """Nothing is changed yet."""
        made = self._adopted.adopt(request.endpoint_id, request.netns, request.interface_name)
        return Answer(result=made)

    def netns_cookie(self, request: protocol.NetnsCookie) -> Answer:
        """For endpoints of an earlier life, which did not ask."""
        with namespaces.opened(request.netns) as descriptor:
            return Answer(result={"netns_cookie": namespaces.cookie_of(descriptor)})

    def attach_endpoint(self, request: protocol.AttachEndpoint) -> Answer:
        """Programs first, traffic after; an adopted interface has its traffic already."""
        adopted = self._adopted.index_of(request.endpoint_id)
        index = adopted or interfaces.ifindex_of(request.endpoint_id)
        self._loader.attach(str(request.endpoint_id), index, self._network.endpoint_programs())
        if adopted is None:
            interfaces.open_traffic(request.endpoint_id, request.ips, request.mac)
        return Answer()

    def detach_endpoint(self, request: protocol.DetachEndpoint) -> Answer:
        """Link down; the programs stay until the interface goes. An adopted one's programs drop everything
        once the endpoint is not in their map."""
        if self._adopted.index_of(request.endpoint_id) is None:
            interfaces.close_traffic(request.endpoint_id)
        return Answer()

    def delete_interface(self, request: protocol.DeleteInterface) -> Answer:
        """The interface before its programs: it is never up without them. An adopted one is given back."""
        adopted = self._adopted.index_of(request.endpoint_id)
        if adopted is None:
            interfaces.delete(request.endpoint_id)
        names = [*PROGRAMS[ENDPOINT], *PROGRAMS[HOST]]
        self._loader.places.detach(str(request.endpoint_id), adopted or 0, names)
        self._adopted.forget(request.endpoint_id)
        return Answer()

    def list_interfaces(self, request: protocol.ListInterfaces) -> Answer:  # noqa: ARG002
        """With what the kernel says about the programs on each."""
        found = {
            str(number): {"ifindex": index, "attached": up and self._is_whole(number, index)}
            for number, (index, up) in self._listed().items()
        }
        return Answer(result={"interfaces": found})

    def set_routes(self, request: protocol.SetRoutes) -> Answer:
        """Faults are part of the answer."""
        return Answer(result={"faults": node.set_routes(request.upserts, request.removals, request.mtu)})

    def probe_features(self, request: protocol.ProbeFeatures) -> Answer:  # noqa: ARG002
        """`yes`, or the reason why not."""
        known = self._network
        return Answer(result={"features": probing.probe(self._bpffs, known.cgroup_root, known.uplink)})

    def _listed(self) -> dict[int, tuple[int, bool]]:
        return interfaces.listed() | self._adopted.listed()

    def _is_whole(self, endpoint_id: int, index: int) -> bool:
        return self._loader.places.holds(str(endpoint_id), index, self._network.endpoint_programs())
