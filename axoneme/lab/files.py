"""Where a laboratory keeps its files, and how they are written: whole or not at all.

    <root>/lab.json                     what runs: token, topology, processes
    <root>/<cluster>/context.json       how clients connect
    <root>/<cluster>/hosts              names of the pods, for `exec`
    <root>/<cluster>/resolv.conf        resolvers of the pods, for `exec`
    <root>/<cluster>/{certs,config,log,etcd}/…
    <root>/<cluster>/<node>/            sockets and state of the node's shim

`<root>` is /run/axoneme/lab for root, else a directory of the user's own; $AXONEME_LAB_DIRECTORY wins.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from axoneme.client.context import find_lab_directory


def root_directory() -> Path:
    """Directory of this user's laboratory."""
    return find_lab_directory(os.environ)


@dataclass(frozen=True, slots=True)
class ClusterFiles:
    """Paths of one cluster's files."""

    root: Path
    cluster: str

    @property
    def directory(self) -> Path:
        return self.root / self.cluster

    @property
    def context(self) -> Path:
        return self.directory / "context.json"

    @property
    def hosts(self) -> Path:
        return self.directory / "hosts"

    @property
    def resolv_conf(self) -> Path:
        return self.directory / "resolv.conf"

    @property
    def etcd(self) -> Path:
        return self.directory / "etcd"

    def certificate(self, name: str, file: str) -> Path:
        """`file` is ca.crt, tls.crt or tls.key."""
        return self.directory / "certs" / name / file

    def config(self, name: str) -> Path:
        return self.directory / "config" / f"{name}.toml"

    def log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"

    def node(self, name: str) -> Path:
        return self.directory / name

    def shim_socket(self, name: str) -> Path:
        return self.node(name) / "shim.sock"

    def make(self) -> None:
        """Creates the directories, closed to others: they hold keys."""
        for name in ("certs", "config", "log", "etcd"):
            (self.directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Writes a JSON file that readers see whole or not at all."""
    write_text(path, json.dumps(document, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file that readers see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    Path(temporary).replace(path)


def toml(settings: Mapping[str, object]) -> str:
    """Flat TOML: text, numbers, truth values and lists of text."""
    # JSON's notation of these is TOML's too.
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
