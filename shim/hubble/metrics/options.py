"""Which metrics are wanted: a list as Cilium writes it, such as `dns:query;ignoreAAAA`.

    plugin[:option[;option…]]      option = flag | flag=true | context=value
    drop:sourceContext=pod|namespace;labelsContext=source_ip,traffic_direction

Pure text work: nothing here knows flows. Also read while a configuration is checked, so it stays light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from axoneme.lib.errors import InvalidArgument

PLUGIN_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "dns": ("query", "ignoreAAAA"),
    "drop": (),
    "flow": (),
    "flows-per-pod": (),
    "flows-to-world": ("any-drop", "port", "syn-only"),
    "http": (),
    "httpV2": ("exemplars",),
    "icmp": (),
    "kafka": (),
    "policy": (),
    "port-distribution": (),
    "sctp": (),
    "tcp": (),
}
"""Plugins and their flags. `exemplars` is taken and has no effect: flows of this node carry no trace."""
IDENTIFIERS: Final = (
    "identity",
    "namespace",
    "pod",
    "pod-name",
    "dns",
    "ip",
    "reserved-identity",
    "workload",
    "workload-name",
    "app",
)
_SIDE_LABELS: Final = ("ip", "pod", "namespace", "workload", "workload_kind", "app")
CONTEXT_LABELS: Final = (
    *(f"{side}_{label}" for side in ("source", "destination") for label in _SIDE_LABELS),
    "traffic_direction",
)
"""Labels of a labelsContext, in the order in which they are shown."""
_CONTEXTS: Final = {
    "sourcecontext": "source",
    "sourceegresscontext": "source_egress",
    "sourceingresscontext": "source_ingress",
    "destinationcontext": "destination",
    "destinationegresscontext": "destination_egress",
    "destinationingresscontext": "destination_ingress",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What tells the two ends of a flow in labels; of a context's identifiers the first that has a value.

    Those of egress and ingress hold for flows of that direction, instead of the plain one.
    """

    source: tuple[str, ...] = ()
    source_egress: tuple[str, ...] = ()
    source_ingress: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    destination_egress: tuple[str, ...] = ()
    destination_ingress: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginOptions:
    """One wanted plugin."""

    name: str
    flags: frozenset[str] = frozenset()
    contexts: Contexts = field(default_factory=Contexts)


def parse_metrics(option: str, texts: Iterable[str]) -> tuple[PluginOptions, ...]:
    """Read the list; `option` is its name, for errors. Raises InvalidArgument with it."""
    plugins: dict[str, PluginOptions] = {}
    for text in _entries(texts):
        plugin = _plugin(option, text)
        if plugin.name in plugins:
            raise InvalidArgument.of_field(option, f"gives {plugin.name!r} twice")
        plugins[plugin.name] = plugin
    if {"http", "httpV2"} <= plugins.keys():
        raise InvalidArgument.of_field(option, "http and httpV2 count the same names; choose one")
    return tuple(plugins.values())


def _entries(texts: Iterable[str]) -> list[str]:
    """One text per plugin: spaces separate, and the commas of a labelsContext do not."""
    entries: list[str] = []
    for part in (word for text in texts for piece in text.split(",") for word in piece.split()):
        if entries and part.split(";")[0] in CONTEXT_LABELS:
            entries[-1] += f",{part}"
        else:
            entries.append(part)
    return entries


def _plugin(option: str, text: str) -> PluginOptions:
    name, _, rest = text.partition(":")
    allowed = PLUGIN_FLAGS.get(name)
    if allowed is None:
        known = ", ".join(PLUGIN_FLAGS)
        raise InvalidArgument.of_field(option, f"{name[:64]!r} is no metric; known are {known}")
    by_word = {flag.lower(): flag for flag in allowed}
    flags: set[str] = set()
    contexts = Contexts()
    for part in filter(None, (part.strip() for part in rest.split(";"))):
        key, _, value = part.partition("=")
        if (flag := by_word.get(key.lower())) is not None:
            if _is_on(option, part, value):
                flags.add(flag)
        else:
            contexts = _with_context(option, name, contexts, key, value)
    return PluginOptions(name=name, flags=frozenset(flags), contexts=contexts)


def _is_on(option: str, part: str, value: str) -> bool:
    if value.lower() not in ("", "true", "false"):
        raise InvalidArgument.of_field(option, f"{part[:64]!r}: write true or false")
    return value.lower() != "false"


def _with_context(option: str, plugin: str, contexts: Contexts, key: str, value: str) -> Contexts:
    if key.lower() == "labelscontext":
        wanted = {label.strip() for label in value.split(",")}
        if unknown := sorted(wanted - set(CONTEXT_LABELS)):
            raise InvalidArgument.of_field(option, f"{plugin}: labelsContext has no {unknown[0][:64]!r}")
        return replace(contexts, labels=tuple(label for label in CONTEXT_LABELS if label in wanted))
    attribute = _CONTEXTS.get(key.lower())
    if attribute is None:
        raise InvalidArgument.of_field(option, f"{plugin} has no option {key[:64]!r}")
    identifiers = tuple(one.strip().lower() for one in value.split("|"))
    for identifier in identifiers:
        if identifier not in IDENTIFIERS:
            raise InvalidArgument.of_field(
                option, f"{plugin}: {key} {identifier[:64]!r}; known are {', '.join(IDENTIFIERS)}"
            )
    return replace(contexts, **{attribute: identifiers})
