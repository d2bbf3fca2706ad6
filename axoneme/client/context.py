"""Where a cluster is and with which certificates: the context file.

Searched in this order: the given file, $AXONEME_CONTEXT, ~/.config/axoneme/context.json, the laboratory that
runs on this machine ($AXONEME_LAB_DIRECTORY; /run/axoneme/lab for root, else a directory of the user). No
gRPC here, so that commands can look for their context before they import it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.lib.errors import FieldViolation, InvalidArgument, NotFound

VARIABLE = "AXONEME_CONTEXT"
LAB_VARIABLE = "AXONEME_LAB_DIRECTORY"
SYSTEM_LAB_DIRECTORY = Path("/run/axoneme/lab")
SERVICES = ("identity", "policy", "clustermesh", "relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One cluster: targets of its services, certificate files, unix sockets of the nodes on this machine."""

    cluster: str
    trust_domain: str
    identity: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()
    clustermesh: tuple[str, ...] = ()
    relay: tuple[str, ...] = ()
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    nodes: Mapping[str, Path] = field(default_factory=dict)
    simulated: bool = False
    source: str = ""
    """File it was read from."""
    from_lab: bool = False
    """True when the running laboratory was found without being asked for."""

    def targets(self, service: str) -> tuple[str, ...]:
        """host:port list of a service. Raises NotFound when the context has none."""
        targets: tuple[str, ...] = getattr(self, service) if service in SERVICES else ()
        if not targets:
            raise NotFound(f"the context {self.source or self.cluster} names no {service} service")
        return targets

    def server_name(self, service: str) -> str:
        """The name that the service's certificate carries."""
        return f"{service}.{self.trust_domain}"

    def node_socket(self, node: str) -> Path:
        """Unix socket of a node's shim. Raises NotFound."""
        if node not in self.nodes:
            known = ", ".join(sorted(self.nodes)) or "none"
            raise NotFound(f"no node {node!r} on this machine; known are: {known}")
        return self.nodes[node]


def load_context(
    path: Path | str | None = None,
    *,
    cluster: str | None = None,
    environ: Mapping[str, str] | None = None,
    lab_directory: Path | None = None,
) -> Context:
    """Finds and reads the context; `cluster` picks one of the lab. Raises NotFound, InvalidArgument."""
    environment = os.environ if environ is None else environ
    if path is not None:
        return read_context(Path(path))
    if cluster is None and environment.get(VARIABLE):
        return read_context(Path(environment[VARIABLE]))
    own = _home(environment) / "axoneme" / "context.json"
    if cluster is None and own.exists():
        return read_context(own)
    return _lab_context(cluster, lab_directory or find_lab_directory(environment))


def find_lab_directory(environ: Mapping[str, str]) -> Path:
    """Directory of this user's laboratory, whether it runs or not."""
    if chosen := environ.get(LAB_VARIABLE):
        return Path(chosen)
    if os.geteuid() == 0:
        return SYSTEM_LAB_DIRECTORY
    runtime = environ.get("XDG_RUNTIME_DIR")
    state = Path(runtime) if runtime else Path(environ.get("HOME", "/")) / ".local" / "state"
    return state / "axoneme" / "lab"


def read_context(path: Path, *, from_lab: bool = False) -> Context:
    """Reads one file. Raises NotFound, or InvalidArgument that names the field."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise NotFound(f"context file {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgument(f"context file {path} is not JSON: {error}") from error
    return parse_context(content, source=str(path), from_lab=from_lab)


def parse_context(content: Any, *, source: str = "", from_lab: bool = False) -> Context:
    """Checks decoded JSON. Raises InvalidArgument that names every wrong field."""
    faults: list[FieldViolation] = []
    reader = _Reader(content if isinstance(content, dict) else {}, faults)
    if not isinstance(content, dict):
        faults.append(FieldViolation("", "is not an object"))
    tls = reader.mapping("tls")
    context = Context(
        cluster=reader.text("cluster"),
        trust_domain=reader.text("trust_domain"),
        identity=reader.texts("identity"),
        policy=reader.texts("policy"),
        clustermesh=reader.texts("clustermesh"),
        relay=reader.texts("relay"),
        ca_file=_path(tls.get("ca")),
        cert_file=_path(tls.get("cert")),
        key_file=_path(tls.get("key")),
        nodes={name: Path(socket) for name, socket in reader.mapping("nodes").items()},
        simulated=bool(reader.content.get("simulated", False)),
        source=source,
        from_lab=from_lab,
    )
    if faults:
        text = "; ".join(f"{fault.field or 'it'} {fault.description}" for fault in faults)
        raise InvalidArgument(f"context {source}: {text}", violations=faults)
    return context


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access that collects faults."""

    content: dict[str, Any]
    faults: list[FieldViolation]

    def text(self, name: str) -> str:
        value = self.content.get(name, "")
        if isinstance(value, str) and value:
            return value
        self.faults.append(FieldViolation(name, "must be text that is not empty"))
        return ""

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.content.get(name, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.faults.append(FieldViolation(name, "must be a list of host:port"))
        return ()

    def mapping(self, name: str) -> dict[str, str]:
        value = self.content.get(name, {})
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        self.faults.append(FieldViolation(name, "must be an object of text"))
        return {}


def _lab_context(cluster: str | None, lab_directory: Path) -> Context:
    try:
        lab = json.loads((lab_directory / "lab.json").read_text())
    except (OSError, ValueError) as error:
        raise NotFound(
            f"no context: give --context FILE, set ${VARIABLE}, or start a laboratory with: axoneme lab up",
            reason="NO_CONTEXT",
        ) from error
    names = cluster_names(lab)
    chosen = cluster or (names[0] if names else "")
    if chosen not in names:
        raise NotFound(f"the laboratory has no cluster {chosen!r}; it has: {', '.join(names) or 'none'}")
    return read_context(lab_directory / chosen / "context.json", from_lab=cluster is None)


def cluster_names(lab: Any) -> list[str]:
    """Names of the clusters in lab.json: an object by name, or a list of names or of objects with a name."""
    clusters = lab.get("clusters", []) if isinstance(lab, dict) else []
    return [item["name"] if isinstance(item, dict) else str(item) for item in clusters]


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _home(environ: Mapping[str, str]) -> Path:
    configured = environ.get("XDG_CONFIG_HOME")
    return Path(configured) if configured else Path(environ.get("HOME", "/")) / ".config"
