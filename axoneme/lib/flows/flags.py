"""From the filter flags of `axoneme observe` to the whitelist and blacklist of a request.

Flags of one side fill one field of a filter; flags of either side (`--pod`) make two filters, one that looks
at the source and one at the destination, and everything else is copied into both. The same flag twice means
OR, different flags mean AND. `--not` sends the next flag to the blacklist, where the same rules hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.flagtable import FLAG_BY_NAME, conflict
from axoneme.lib.flows.flagvalues import Filter, fill


@dataclass(slots=True)
class FilterSet:
    """The filters of one list, in the order of the flags."""

    _values: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Take one flag. Raises InvalidArgument if it is unknown or contradicts an earlier one."""
        flag = FLAG_BY_NAME.get(name)
        if flag is None:
            raise InvalidArgument(f"unknown filter --{name}")
        for other in self._values:
            if conflict(flag, FLAG_BY_NAME[other]):
                raise InvalidArgument(f"filters --{other} and --{name} cannot be combined")
        self._values.setdefault(name, []).append(value)

    def build(self) -> list[Filter]:
        """No filter, one, or two when a flag looks at either end. Raises InvalidArgument naming the flag."""
        if not self._values:
            return []
        left, right = Filter(), Filter()
        for name, values in self._with_namespaces().items():
            flag = FLAG_BY_NAME[name]
            for value in values:
                fill(left, flag, "source" if flag.side == "both" else flag.side, value)
                fill(right, flag, "destination" if flag.side == "both" else flag.side, value)
        return [left] if left == right else [left, right]

    def _with_namespaces(self) -> dict[str, list[str]]:
        """The flags with namespaces written into pod (or service) names of the same side."""
        values = {name: list(texts) for name, texts in self._values.items()}
        for prefix in ("", "from-", "to-"):
            namespaces = values.pop(f"{prefix}namespace", None)
            if values.pop(f"{prefix}all-namespaces", None) is not None:
                namespaces = [""]
            if namespaces is None:
                continue
            target = f"{prefix}service" if f"{prefix}service" in values else f"{prefix}pod"
            names = values.get(target, [""])
            values[target] = [_in_namespace(prefix, ns, name) for ns in namespaces for name in names]
        return values


def _in_namespace(prefix: str, namespace: str, name: str) -> str:
    own, slash, rest = name.partition("/")
    if not slash:
        return f"{namespace}/{name}"
    if own != namespace:
        flag = f"--{prefix}namespace {namespace}" if namespace else f"--{prefix}all-namespaces"
        raise InvalidArgument(f"{flag} contradicts the namespace of {name!r}")
    return f"{namespace}/{rest}"


def build_filters(flags: Iterable[tuple[str, str, bool]]) -> tuple[list[Filter], list[Filter]]:
    """Whitelist and blacklist of (flag, value, negated) in the order given."""
    wanted, unwanted = FilterSet(), FilterSet()
    for name, value, negated in flags:
        (unwanted if negated else wanted).add(name, value)
    return wanted.build(), unwanted.build()
