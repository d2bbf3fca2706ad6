"""What a service asks of the nodes' kernels: refused where a node said that it cannot. Pure.

Nodes publish what they can do; one that says nothing of a feature is not asked for it here, and refuses the
service itself, by its stream, when it has to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from axoneme.lib.errors import FailedPrecondition
from services.clustermesh.model import Algorithm, ForwardingMode, Service

PRESENT: Final = "yes"
_SHOWN: Final = 5
_WANTED: Final = {
    Algorithm.MAGLEV: ("algorithm MAGLEV", ("maglev", "map_of_maps")),
    ForwardingMode.DSR: ("forwarding_mode DSR", ("dsr",)),
}


def check_features(service: Service, features: Mapping[str, Mapping[str, str]]) -> None:
    """Raises FailedPrecondition (FEATURE_MISSING) that names the nodes; `features` are theirs, by name."""
    for asked in (service.algorithm, service.forwarding_mode):
        what, names = _WANTED.get(asked, ("", ()))
        lacking = sorted(_lacking(names, features))
        if lacking:
            more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
            raise FailedPrecondition(
                f"service {service.key} asks for {what}, which these nodes lack: "
                f"{', '.join(lacking[:_SHOWN])}{more}; leave it out, or upgrade them",
                reason="FEATURE_MISSING",
            )


def _lacking(names: tuple[str, ...], features: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for node, known in features.items():
        found = next((known[name] for name in names if known.get(name, PRESENT) != PRESENT), None)
        if found is not None:
            yield f"{node} ({found[:64]})"
