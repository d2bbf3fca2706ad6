"""A container runtime as far as CNI goes: runs the plugins of a list one after the other, as libcni does."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEBIAN_PLUGINS = Path("/usr/lib/cni")
OWN_PLUGIN = Path(__file__).parents[1] / "shim" / "cni.py"


class PluginError(Exception):
    """What a plugin printed instead of a result."""

    def __init__(self, plugin: str, code: int, message: str) -> None:
        super().__init__(f"{plugin}: {code}: {message}")
        self.code = code


@dataclass
class CniRuntime:
    """One network of one node; commands run in the node's namespace."""

    node_netns: str
    plugins: list[dict[str, Any]]
    name: str = "pods"
    version: str = "1.0.0"
    search_path: Path = DEBIAN_PLUGINS
    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # by container, as a runtime caches them

    def add(
        self, container: str, netns: str, args: str = "", capabilities: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The last plugin's result."""
        previous: dict[str, Any] | None = None
        for plugin in self.plugins:
            more = {} if previous is None else {"prevResult": previous}
            previous = self._run("ADD", plugin, container, netns, args, capabilities, more)
        assert previous is not None
        self.results[container] = previous
        return previous

    def check(self, container: str, netns: str) -> None:
        """Every plugin, with the last result."""
        for plugin in self.plugins:
            self._run("CHECK", plugin, container, netns, "", None, {"prevResult": self.results[container]})

    def delete(self, container: str, netns: str = "") -> None:
        """Every plugin, the last one first."""
        known = self.results.get(container)
        more = {} if known is None else {"prevResult": known}
        for plugin in reversed(self.plugins):
            self._run("DEL", plugin, container, netns, "", None, more)

    def collect(self, valid: Iterable[str]) -> None:
        """GC: these containers' eth0 stay."""
        attachments = [{"containerID": container, "ifname": "eth0"} for container in valid]
        for plugin in self._own():
            self._run("GC", plugin, "", "", "", None, {"cni.dev/valid-attachments": attachments})

    def status(self) -> None:
        """STATUS of our plugin."""
        for plugin in self._own():
            self._run("STATUS", plugin, "", "", "", None, {})

    def _own(self) -> Iterator[dict[str, Any]]:
        return (plugin for plugin in self.plugins if plugin["type"] == "axoneme-cni")

    def _run(
        self,
        command: str,
        plugin: dict[str, Any],
        container: str,
        netns: str,
        args: str,
        capabilities: dict[str, Any] | None,
        more: dict[str, Any],
    ) -> dict[str, Any]:
        wanted = plugin.get("capabilities", {})
        runtime = {name: value for name, value in (capabilities or {}).items() if wanted.get(name)}
        config = {**plugin, "cniVersion": self.version, "name": self.name, **more}
        if runtime:
            config["runtimeConfig"] = runtime
        own = plugin["type"] == "axoneme-cni"
        path = OWN_PLUGIN if own else self.search_path / plugin["type"]
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": args,
            "CNI_PATH": str(self.search_path),
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.node_netns}", str(path)],
            input=json.dumps(config),
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            timeout=90,
        )
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        if done.returncode != 0:
            raise PluginError(plugin["type"], answer.get("code", 0), answer.get("msg", done.stderr))
        return answer


def children_cpu_seconds() -> float:
    """User and system time of the ended children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def dial(address: str, port: int) -> tuple[str, ...]:
    """A command that prints `connected` or the name of the error; nobody listening counts as reached."""
    code = (
        "import socket\n"
        f"try: socket.create_connection(({address!r}, {port}), 1); print('connected')\n"
        "except OSError as error: print(type(error).__name__)"
    )
    return (sys.executable, "-c", code)
