"""A service as it is shown."""

from __future__ import annotations

from typing import NamedTuple

from services.clustermesh.model import (
    Backend,
    Service,
)


class View(NamedTuple):
    """A service as it is shown: what was applied, at which revision, and its backends now."""

    service: Service
    revision: int
    backends: tuple[Backend, ...] = ()
    unnamed: int = 0
    """Workloads that lack a named port which the service asks for."""
