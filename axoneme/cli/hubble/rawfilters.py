"""Filters of a command: flags, raw JSON of options, environment and file, and their YAML.

What most queries do without is loaded when it is needed: JSON of protobuf, regular expressions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import AxonemeError, InvalidArgument, Unsupported
from axoneme.lib.flows.flags import build_filters

Filters = list[flow_pb2.FlowFilter]
Flags = Sequence[tuple[str, str, bool]]


def all_filters(
    flags: Flags, options: Mapping[str, Any], stored: Mapping[str, Sequence[str]], *, here: bool
) -> tuple[Filters, Filters]:
    """Whitelist and blacklist, checked so that mistakes name the flag.

    `stored` are raw filters of environment and file, for which options of the same name stand in. What only
    a server understands is left to it unless the filtering is done `here`.
    """
    for name, value, _ in flags:
        _check_flag(name, value, here)
    whitelist, blacklist = build_filters(flags)
    for name, filters in (("allowlist", whitelist), ("denylist", blacklist)):
        for text in options.get(name) or stored.get(name, ()):
            filters += raw_filters(text, name)
    if whitelist or blacklist:
        _check(whitelist, blacklist, here)
    return whitelist, blacklist


def _check_flag(name: str, value: str, here: bool) -> None:
    """A mistake is reported under the flag that was typed, not under the filter that is made of it."""
    alone, _ = build_filters([(name, value, False)])
    try:
        _check(alone, [], here)
    except AxonemeError as error:
        text = "; ".join(violation.description for violation in error.violations[:1]) or error.message
        raise type(error)(f"--{name}: {text}") from error


def _check(whitelist: Filters, blacklist: Filters, here: bool) -> None:
    from axoneme.lib.flows.filters import FlowMatcher

    try:
        FlowMatcher(whitelist, blacklist)
    except Unsupported:
        if here:
            raise


def raw_filters(text: str, flag: str) -> Iterator[flow_pb2.FlowFilter]:
    """One or several JSON objects in a row. Raises InvalidArgument."""
    from google.protobuf import json_format

    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
            yield json_format.ParseDict(value, flow_pb2.FlowFilter())
        except (ValueError, json_format.ParseError) as error:
            raise InvalidArgument(f"--{flag}: not a FlowFilter in JSON: {error}") from error
        rest = rest[end:].lstrip()


def filters_yaml(whitelist: Iterable[flow_pb2.FlowFilter], blacklist: Iterable[flow_pb2.FlowFilter]) -> str:
    """As `--print-raw-filters` of the Hubble CLI prints them, fit for its config file."""
    from google.protobuf import json_format

    lines = []
    for name, filters in (("allowlist", whitelist), ("denylist", blacklist)):
        for position, one in enumerate(filters):
            if position == 0:
                lines.append(f"{name}:\n")
            values = json_format.MessageToDict(one, preserving_proto_field_name=True)
            text = json.dumps(values, separators=(",", ":"))
            quoted = text.replace("'", "''")
            lines.append(f"    - '{quoted}'\n")
    return "".join(lines)
