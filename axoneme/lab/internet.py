"""What lies outside of every cluster of a laboratory: an upstream DNS server, and sites with names.

    axolab-fabric 198.18.254.1 ── internet ── 198.18.254.53 (DNS), 203.0.113.0/24, 2001:db8:113::/48 (sites)
                                              198.19.0.0/16, 2001:db8:119::/64 (an address for everything)

Pure: gives names, addresses and commands. Every site says hello over HTTP on port 80 and HTTPS on port 443.
Names under `test` are asked of a second server at port 5353 of the first: for whoever tries things out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from axoneme.lab.topology import PREFIX

NETNS: Final = f"{PREFIX}-internet"
LINK: Final = "internet"
GATEWAYS: Final = ("198.18.254.1", "fd00:198:18:fe::1")
DNS: Final = ("198.18.254.53", "fd00:198:18:fe::53")
SITES: Final = ("203.0.113.0/24", "2001:db8:113::/48")
WIDE: Final = ("198.19.0.0/16", "2001:db8:119::/64")
TRIAL_PORT: Final = 5353
HTTP_PORT, HTTPS_PORT = 80, 443
DNSMASQ: Final = "dnsmasq"
_QUIET: Final = (
    *("--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--log-facility=-"),
    *("--user=root", "--pid-file", "--cache-size=0"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A name, the last number of its addresses, and how long answers hold, in seconds."""

    name: str
    host: int
    ttl: int = 60
    alias_of: str = ""

    @property
    def ips(self) -> tuple[str, str]:
        return f"203.0.113.{self.host}", f"2001:db8:113::{self.host}"


NAMES: Final = (
    Site(name="shop.example.com", host=10),
    Site(name="api.example.com", host=11),
    Site(name="short.example.com", host=12, ttl=1),
    Site(name="edge.example.net", host=20),
    Site(name="cdn.example.com", host=20, alias_of="edge.example.net"),
    Site(name="www.example.org", host=30),
    Site(name="www.domain.com", host=40),
)


def site(name: str) -> Site:
    """A site by its name. Raises KeyError."""
    return {one.name: one for one in NAMES}[name]


def addresses() -> list[str]:
    """All addresses with their lengths, IPv4 first."""
    hosts = sorted({one.host for one in NAMES})
    sites = [f"203.0.113.{host}/32" for host in hosts] + [f"2001:db8:113::{host}/128" for host in hosts]
    return [f"{DNS[0]}/24", f"{DNS[1]}/64", *sites]


def upstream() -> list[str]:
    """Command of the DNS server that knows the sites."""
    records = [
        f"--cname={one.name},{one.alias_of},{one.ttl}"
        if one.alias_of
        else f"--host-record={one.name},{','.join(one.ips)},{one.ttl}"
        for one in NAMES
    ]
    zones = sorted({".".join(one.name.split(".")[-2:]) for one in NAMES})
    records += [f"--local=/{zone}/" for zone in zones]
    trial = [f"--server=/test/{DNS[0]}#{TRIAL_PORT}", "--dns-forward-max=10000"]
    listening = [*(f"--listen-address={ip}" for ip in DNS), "--bind-interfaces"]
    return [DNSMASQ, *_QUIET, *listening, *trial, *records]


def resolver(servers: Sequence[str] = DNS) -> list[str]:
    """Command of a resolver inside a cluster, which asks these servers."""
    return [DNSMASQ, *_QUIET, "--dns-forward-max=10000", *(f"--server={ip}" for ip in servers)]


def webserver(port: int, certificate: Sequence[str] = ()) -> list[str]:
    """Command of the sites' web server; `certificate` is its file and that of its key."""
    module = [sys.executable, "-m", "axoneme.lab.webserver", "--name", "internet", "--port", str(port)]
    return [*module, "--certificate", *certificate] if certificate else module
