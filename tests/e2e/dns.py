"""DNS in a running laboratory: questions of pods by real clients, and policies about names."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from axoneme.lab import internet, network
from tests.e2e.running import Running
from tests.waiting import eventually_sync

NAMESERVER = str(Path(__file__).with_name("nameserver.py"))
FIRST_PACKETS = str(Path(__file__).with_name("firstpackets.py"))
KUBE_DNS = "{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What dig got; status `none` for no answer at all."""

    status: str
    ips: tuple[str, ...] = ()
    ttl: int = -1
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.status == "NOERROR" and bool(self.ips)


def names_policy(
    *patterns: str,
    fqdns: tuple[str, ...] | None = None,
    pod: str = "frontend",
    servers: str = f"toEndpoints: [{KUBE_DNS}]",
    ports: tuple[int, ...] = (80, 443),
) -> str:
    """A policy of one pod: which names it may ask for, and which of them it may talk to."""
    rules = ", ".join(_match(one) for one in patterns)
    targets = ", ".join(_match(one) for one in (patterns if fqdns is None else fqdns))
    open_ports = ", ".join(f'{{port: "{port}", protocol: TCP}}' for port in ports)
    reach = f"\n  - toFQDNs: [{targets}]\n    toPorts: [{{ports: [{open_ports}]}}]" if targets else ""
    return f"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: names-of-{pod}}}
spec:
  endpointSelector: {{matchLabels: {{app: {pod}}}}}
  egress:
  - {servers}
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{rules}]}}{reach}
"""


def _match(text: str) -> str:
    return f'{{match{"Pattern" if "*" in text else "Name"}: "{text}"}}'


def dig(
    lab: Running,
    pod: str,
    name: str,
    *,
    server: str = "",
    version: int = 4,
    kind: str = "",
    tcp: bool = False,
    seconds: int = 1,
    sockets: bool = True,
    words: tuple[str, ...] = (),
) -> Reply:
    """One question by dig, not repeated, to the resolver `dns` or `server`; `version`: of the transport."""
    chosen = server or lab.ip("dns", version)
    command = [
        *("dig", f"@{chosen}", name, kind or "A", f"+time={seconds}", "+tries=1", "+ignore"),
        *("+noall", "+comments", "+answer", *(["+tcp"] if tcp else []), *words),
    ]
    inside = lab.inside(pod, *command) if sockets else [*network.entering(lab.cluster.netns(pod)), *command]
    done = subprocess.run(inside, check=False, capture_output=True, text=True, timeout=30)
    return reply_of(done.stdout)


def reply_of(text: str) -> Reply:
    """What dig printed."""
    status = re.search(r"status: (\w+)", text)
    if status is None:
        return Reply("none")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith(";")]
    found = [(row[4], int(row[1])) for row in rows if len(row) > 4 and row[3] in ("A", "AAAA")]
    flags = re.search(r"flags: ([a-z ]*)", text)
    truncated = flags is not None and "tc" in flags.group(1).split()
    return Reply(status.group(1), tuple(ip for ip, _ in found), found[0][1] if found else -1, truncated)


def fetch(lab: Running, pod: str, url: str, *words: str, seconds: float = 0.9) -> bool:
    """One request by curl, whose libc asks the pod's resolvers where the URL has a name."""
    command = lab.inside(pod, "curl", "-sSk", "--globoff", "--max-time", str(seconds), *words, url)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode == 0 and "hello from internet" in done.stdout


def url_of(ip: str, port: int = internet.HTTP_PORT) -> str:
    return f"http://[{ip}]:{port}/" if ":" in ip else f"http://{ip}:{port}/"


def resolves(lab: Running, pod: str, name: str, *words: str, environment: tuple[str, ...] = ()) -> set[str]:
    """Addresses that the libc of a pod finds; `environment`: NAME=VALUE."""
    command = lab.inside(pod, "env", *environment, "getent", "ahosts", *words, name)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return {line.split()[0] for line in done.stdout.splitlines()}


@contextmanager
def trial_names(netns: str = internet.NETNS, ip: str = "", port: int = internet.TRIAL_PORT) -> Iterator[None]:
    """The server of the names under `test`, as long as the block lasts; in the internet or elsewhere."""
    command = [sys.executable, NAMESERVER, ip or internet.DNS[0], str(port)]
    inside = [*network.entering(netns), *command]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "READY\n"
            yield
        finally:
            server.communicate()


def becomes_refused(lab: Running, pod: str, name: str) -> None:
    eventually_sync(lambda: dig(lab, pod, name).status == "REFUSED", message=f"{name} is refused to {pod}")


def dns_flows(lab: Running, *words: str) -> list[dict[str, object]]:
    """L7 DNS flows of the last moments."""
    return [flow for flow in lab.flows("--protocol", "dns", *words) if "l7" in flow]
