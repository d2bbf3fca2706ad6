"""The state file of a shim: what must survive its restart and stands nowhere else.

Endpoints with their numbers, addresses and interfaces, the node's PodCIDRs, the cookies that kernel entries
carry and the numbers of identities that only this node knows. The file is written whole, beside the old one,
and renamed; a torn write leaves the old state. A file of another format is refused: guessing would give two
endpoints one number.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axoneme.lib.errors import FailedPrecondition
from shim.endpoints import Endpoint

FORMAT = 1


@dataclass(kw_only=True)
class NodeState:
    """Content of the file."""

    pod_cidrs: tuple[str, ...] = ()
    router_ips: tuple[str, ...] = ()
    health_ips: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    last_endpoint_id: int = 0  # the number that was given out last, so that numbers go round the whole range
    released: tuple[int, ...] = ()  # identities whose release the identity service has not confirmed yet
    cookies: dict[str, Any] = field(default_factory=dict)
    local_identities: dict[str, Any] = field(default_factory=dict)
    last_backend_id: int = (
        0  # numbers given out last, so that one of a backend or a set is not soon another's
    )
    last_set_id: int = 0


class StateFile:
    """Reads and writes the file of one shim."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "state.json"
        self._written: dict[str, Any] | None = None

    def load(self) -> NodeState:
        """The stored state, empty when there is none. Raises FailedPrecondition for a file it cannot use."""
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']} instead of {FORMAT}")
            return NodeState(
                pod_cidrs=tuple(raw["pod_cidrs"]),
                router_ips=tuple(raw["router_ips"]),
                health_ips=tuple(raw.get("health_ips", ())),
                endpoints=tuple(Endpoint.load(one) for one in raw["endpoints"]),
                last_endpoint_id=int(raw.get("last_endpoint_id", 0)),
                released=tuple(raw["released"]),
                cookies=raw["cookies"],
                local_identities=raw.get("local_identities", {}),
                last_backend_id=int(raw.get("last_backend_id", 0)),
                last_set_id=int(raw.get("last_set_id", 0)),
            )
        except FileNotFoundError:
            return NodeState()
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(
                f"{self.path} cannot be used ({error}); move it away to start with an empty node",
                reason="STATE_FILE_INVALID",
            ) from error

    def save(self, state: NodeState) -> None:
        """Replaces the file unless it says the same; after a return the state survives a power cut."""
        raw = {
            "format": FORMAT,
            "pod_cidrs": state.pod_cidrs,
            "router_ips": state.router_ips,
            "health_ips": state.health_ips,
            "endpoints": [one.dump() for one in state.endpoints],
            "last_endpoint_id": state.last_endpoint_id,
            "released": state.released,
            "cookies": state.cookies,
            "local_identities": state.local_identities,
            "last_backend_id": state.last_backend_id,
            "last_set_id": state.last_set_id,
        }
        if raw == self._written:
            return
        draft = self.path.with_suffix(".new")
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with contextlib.closing(os.fdopen(descriptor, "w", encoding="utf-8")) as file:
            json.dump(raw, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._written = raw
