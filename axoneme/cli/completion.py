"""Values for shell completion that can be had at once: from the record of the running lab and from enums.

Asks no service and imports no gRPC, so that <tab> answers within a moment; knows nothing when no lab runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Completer = Callable[[click.Context, click.Parameter, str], list[Any]]
VERDICTS = ("FORWARDED", "DROPPED", "ERROR", "AUDIT", "REDIRECTED", "TRACED", "TRANSLATED")


def verdicts(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    """Verdicts of flows, in any case."""
    return [name for name in VERDICTS if name.startswith(incomplete.upper())]


def pods(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    """NAMESPACE/NAME of the lab's pods."""
    names = {f"{pod.namespace}/{pod.name}" for cluster in _clusters() for _, pod in cluster.pods()}
    found = sorted(name for name in names if name.startswith(incomplete))
    return found or sorted(name for name in names if name.startswith(f"default/{incomplete}"))


def lab_pods(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    """Pods as `lab exec` takes them."""
    present = _lab()
    names = present.topology.pod_names() if present else []
    return [name for name in names if name.startswith(incomplete)]


def nodes(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    """Names of the lab's nodes."""
    names = {node.name for cluster in _clusters() for node in cluster.nodes}
    return sorted(name for name in names if name.startswith(incomplete))


def clusters(_: click.Context, __: click.Parameter, incomplete: str) -> list[Any]:
    """Names of the lab's clusters."""
    return [cluster.name for cluster in _clusters() if cluster.name.startswith(incomplete)]


def _clusters() -> Any:
    present = _lab()
    return present.topology.clusters if present else ()


def _lab() -> Any:
    from axoneme.lab import state
    from axoneme.lab.files import root_directory

    return state.load(root_directory())
