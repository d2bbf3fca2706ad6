"""The node's network as its settings ask: uplink, tunnel, programs of the node, health namespace.

Each part stands for itself: one that cannot be had is named in the answer with the reason, and the others
are set up all the same. Nothing is opened before its programs are attached, and what is no longer asked for
is removed. Running it again with equal settings finds everything in place and changes nothing, which is how
programs that somebody took off are found and put back.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from axoneme.lib import log
from axoneme.lib.bpf.xdplinks import XdpLink, XdpMode
from axoneme.lib.errors import AxonemeError, FailedPrecondition, InvalidArgument
from axoneme.lib.nodenames import health_namespace
from shim.network import TUNNEL, XDP_NATIVE, XDP_OFF
from shim.privileged import cgroups, health, overlay, proxyroutes, sysctls, uplink
from shim.privileged.catalogue import (
    ENDPOINT,
    HOST,
    INTERFACE_PROGRAMS,
    NETDEV,
    OVERLAY,
    PROGRAMS,
    SOCK,
    SOCKMAP,
    SOCKOPS_PROGRAM,
    XDP,
    XDP_PROGRAM,
)
from shim.privileged.loader import ProgramLoader
from shim.privileged.protocol import SetUpNetwork

logger = logging.getLogger(__name__)

UPLINK_PLACE, OVERLAY_PLACE = "uplink", "overlay"
DNS_PROXY = "dns_proxy"
_XDP_PLACES = {XdpMode.GENERIC: "xdpgeneric", XdpMode.NATIVE: "xdpnative"}


@dataclass(slots=True)
class _Outcome:
    """What a run found and made."""

    attached: set[str] = field(default_factory=set)
    repaired: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of its own: what it raises becomes the reason why it is missing."""
        try:
            yield
        except InvalidArgument:
            raise
        except (AxonemeError, OSError, NetlinkError) as error:
            self.missing[name] = str(error)
            logger.warning("not set up", extra={log.KEY: name, log.ERROR: log.clip(error)})


class NodeNetwork:
    """Devices and programs of one node, beside those of its endpoints."""

    def __init__(self, loader: ProgramLoader, pins: Path) -> None:
        self._loader = loader
        self._pins = pins
        self._cgroups = cgroups.CgroupPlaces(loader.links)
        self._health_name = health_namespace(pins.parent)
        self._host_firewall: bool | None = None
        self.cgroup_root = self.uplink = ""
        """What the last settings said, and found."""

    @property
    def health_name(self) -> str:
        """Name of the health endpoint's namespace."""
        return self._health_name

    def endpoint_programs(self) -> tuple[str, ...]:
        """What is put on an endpoint's interface."""
        host = PROGRAMS[HOST] if self._host_firewall else ()
        return (*PROGRAMS[ENDPOINT], *host)

    def set_up(self, request: SetUpNetwork, endpoints: Mapping[str, int]) -> dict[str, Any]:
        """Fields of NetworkFacts. `endpoints`: place → interface of each endpoint.

        Raises InvalidArgument for settings that cannot be meant, FailedPrecondition before `load`.
        """
        outcome = _Outcome()
        self.cgroup_root = request.cgroup_root
        wanted = _objects_of(request)
        faults = self._loader.need(wanted)
        outcome.missing.update({name: fault for name, fault in faults.items() if name in wanted})
        usable = [name for name in wanted if name not in faults]
        facts = self._set_up_uplink(request, usable, outcome)
        facts |= self._set_up_overlay(request, usable, outcome, facts.get("uplink_mtu", 0))
        self._set_up_endpoints(HOST in usable, endpoints, outcome)
        self._set_up_sockets(request, usable, outcome)
        self._set_up_dns_proxy(request, outcome)
        facts["health_netns"] = self._set_up_health(request, outcome)
        self._loader.release(PROGRAMS.keys() - {ENDPOINT, *wanted})
        return {
            **facts,
            "attached": sorted(outcome.attached),
            "repaired": outcome.repaired,
            "missing": outcome.missing,
        }

    def remove_health(self) -> None:
        """Removes the health endpoint's namespace."""
        health.remove(self._health_name)

    def _set_up_uplink(
        self, request: SetUpNetwork, usable: Iterable[str], outcome: _Outcome
    ) -> dict[str, Any]:
        with outcome.part("uplink"):
            found = uplink.find(request)
            self.uplink = found.name
            names = [name for one in (NETDEV, HOST) if one in usable for name in PROGRAMS[one]]
            with outcome.part(NETDEV):
                self._put(UPLINK_PLACE, found.index, names, outcome)
            self._keep_only(UPLINK_PLACE, found.index, names)
            with outcome.part(XDP):
                self._set_up_xdp(request, usable, found.index, outcome)
            if names:
                sysctls.loosen_reverse_path(found.name)
            return {
                "uplink": found.name,
                "uplink_ifindex": found.index,
                "uplink_mac": found.mac,
                "uplink_mtu": found.mtu,
                "endpoint_mtu": uplink.endpoint_mtu(request, found.mtu),
            }
        return {"endpoint_mtu": request.mtu}

    def _set_up_overlay(
        self, request: SetUpNetwork, usable: Iterable[str], outcome: _Outcome, uplink_mtu: int
    ) -> dict[str, Any]:
        names = [name for one in (OVERLAY, HOST) if one in usable for name in PROGRAMS[one]]
        if request.routing_mode != TUNNEL:
            self._keep_only(OVERLAY_PLACE, overlay.index_of(), ())
            overlay.remove()
            return {"overlay_ifindex": 0}
        if OVERLAY not in usable:  # a tunnel without its programs would let anybody in
            self._keep_only(OVERLAY_PLACE, overlay.index_of(), ())
            overlay.remove()
            return {"overlay_ifindex": 0}
        with outcome.part(OVERLAY):
            if not uplink_mtu:
                raise FailedPrecondition("there is no uplink for the tunnel", reason="INTERFACE_NOT_FOUND")
            index = overlay.make(request.tunnel_port, uplink.endpoint_mtu(request, uplink_mtu))
            self._put(OVERLAY_PLACE, index, names, outcome)
            self._keep_only(OVERLAY_PLACE, index, names)
            overlay.open_up(index)
            return {"overlay_ifindex": index}
        return {"overlay_ifindex": 0}

    def _set_up_endpoints(self, firewall: bool, endpoints: Mapping[str, int], outcome: _Outcome) -> None:
        """The node's own policy stands on every way between the node and its endpoints too."""
        before, self._host_firewall = self._host_firewall, firewall
        for place, index in endpoints.items():
            if firewall:
                with outcome.part(HOST):
                    self._put(place, index, PROGRAMS[HOST], outcome)
            elif before is not False:  # a helper that is new does not know yet
                self._loader.places.detach(place, index, PROGRAMS[HOST])

    def _set_up_xdp(
        self, request: SetUpNetwork, usable: Iterable[str], index: int, outcome: _Outcome
    ) -> None:
        wanted = None
        if request.xdp != XDP_OFF and XDP in usable:
            wanted = XdpMode.NATIVE if request.xdp == XDP_NATIVE else XdpMode.GENERIC
        for mode, place in _XDP_PLACES.items():
            if mode is not wanted:
                self._loader.links.drop(place, XDP_PROGRAM)
        if wanted is None:
            return
        path = self._loader.links.path(_XDP_PLACES[wanted], XDP_PROGRAM)
        if path.exists():
            with contextlib.closing(XdpLink.open(path)) as link:
                if link.state().ifindex == index:
                    outcome.attached.add(XDP)
                    return
            self._loader.links.drop(_XDP_PLACES[wanted], XDP_PROGRAM)
        program = self._loader.program(XDP_PROGRAM)
        with contextlib.closing(XdpLink.create(program, ifindex=index, mode=wanted)) as link:
            link.pin(path)
        outcome.attached.add(XDP)
        outcome.repaired.append(XDP)

    def _set_up_sockets(self, request: SetUpNetwork, usable: Iterable[str], outcome: _Outcome) -> None:
        for name, programs in ((SOCK, PROGRAMS[SOCK]), (SOCKMAP, (SOCKOPS_PROGRAM,))):
            if name not in usable:
                self._cgroups.detach(programs)
                if name == SOCKMAP:
                    cgroups.leave_sockets(self._pins)
                continue
            with outcome.part(name):
                if name == SOCKMAP:
                    cgroups.attach_to_sockets(self._loader.program("axoneme_sk_msg"), self._pins)
                loaded = [self._loader.program(one) for one in programs]
                made = self._cgroups.attach(loaded, cgroups.folder(request.cgroup_root))
                outcome.attached.add(name)
                outcome.repaired += [name] if made else []

    def _set_up_dns_proxy(self, request: SetUpNetwork, outcome: _Outcome) -> None:
        """Before any policy redirects: without the routes, redirected packets go on to their servers' way."""
        before = self._pins.parent / proxyroutes.FOLDER
        if not request.dns_proxy:
            proxyroutes.remove(before)
            return
        with outcome.part(DNS_PROXY):
            made = proxyroutes.make(before)
            outcome.attached.add(DNS_PROXY)
            outcome.repaired += [f"{DNS_PROXY}: {what}" for what in made]

    def _set_up_health(self, request: SetUpNetwork, outcome: _Outcome) -> str:
        if not request.health:
            health.remove(self._health_name)
            return ""
        with outcome.part("health"):
            sysctls.permit_echoes(os.getgid())  # the shim has this group, and no capability
            return health.make(self._health_name)
        return ""

    def _put(self, place: str, index: int, names: Iterable[str], outcome: _Outcome) -> None:
        """Attaches what is not in place; programs that are there were replaced when they were loaded."""
        for name in names:
            if not self._loader.places.holds(place, index, (name,)):
                self._loader.attach(place, index, (name,))
                outcome.repaired.append(f"{place}: {name}")
            outcome.attached.add(place)

    def _keep_only(self, place: str, index: int, names: Iterable[str]) -> None:
        kept = set(names)
        others = [name for one in INTERFACE_PROGRAMS.values() for name in one if name not in kept]
        self._loader.places.detach(place, index, others)


def _objects_of(request: SetUpNetwork) -> list[str]:
    """Objects that the settings ask for, beside the endpoint's."""
    wanted = {
        NETDEV: request.services or request.masquerade,
        OVERLAY: request.routing_mode == TUNNEL,
        HOST: request.host_firewall,
        SOCK: request.services and request.socket_lb,
        XDP: request.services and request.xdp != XDP_OFF,
        SOCKMAP: request.sockmap,
    }
    return [name for name, asked in wanted.items() if asked]
