"""Reading rules of other protocols: kafka, and the key/value rules (`l7`) of any parser (`l7proto`)."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from services.policy.reading.document import Node
from services.policy.reading.fields import Fields

Pairs: TypeAlias = tuple[tuple[str, str], ...]

_KAFKA: Final = ("role", "apiKey", "apiVersion", "clientID", "topic")
_ROLES: Final = ("produce", "consume")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_MAX_API_VERSION: Final = 0x7FFF
_PROTOCOL: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,62}[A-Za-z0-9])?")
_OWN_PARSERS: Final = frozenset({"http", "tls", "dns", "kafka", "crd"})
# https://kafka.apache.org/protocol#protocol_api_keys, in lower case.
_API_KEYS: Final = frozenset(
    {
        "addoffsetstotxn",
        "addpartitionstotxn",
        "alterconfigs",
        "apiversions",
        "controlledshutdown",
        "createacls",
        "createtopics",
        "deleteacls",
        "deleterecords",
        "deletetopics",
        "describeacls",
        "describeconfigs",
        "describegroups",
        "endtxn",
        "fetch",
        "findcoordinator",
        "heartbeat",
        "initproducerid",
        "joingroup",
        "leaderandisr",
        "leavegroup",
        "listgroups",
        "metadata",
        "offsetcommit",
        "offsetfetch",
        "offsetforleaderepoch",
        "offsets",
        "produce",
        "saslhandshake",
        "stopreplica",
        "syncgroup",
        "txnoffsetcommit",
        "updatemetadata",
        "writetxnmarkers",
    }
)


def read_kafka(node: Node, fields: Fields) -> Pairs:
    """One rule of `kafka` as pairs; role and apiKey in lower case."""
    present = fields.mapping(node, _KAFKA)
    if "role" in present and "apiKey" in present:
        fields.fault(present["apiKey"], "role and apiKey exclude each other", "keep one of them")
    pairs = {key: text for key, child in present.items() if (text := fields.text(child)) is not None}
    for key in ("role", "apiKey"):
        if key in pairs:
            pairs[key] = pairs[key].lower()
    for key, text in pairs.items():
        reason = _kafka_problem(key, text)
        if reason:
            fields.fault(present[key], f"{text[:80]!r} is not {reason}", "correct it, or leave the key out")
    return tuple(sorted((key, text) for key, text in pairs.items() if text))


def _kafka_problem(key: str, text: str) -> str:
    """What a text should be; empty if it is, or if it says nothing."""
    if not text:
        return ""
    if key == "role" and text not in _ROLES:
        return f"a role ({' or '.join(_ROLES)})"
    if key == "apiKey" and text not in _API_KEYS:
        return "an API key of Kafka"
    if key == "apiVersion" and not (text.isascii() and text.isdecimal() and _small(text)):
        return f"an API version from 0 to {_MAX_API_VERSION}"
    if key == "topic" and not _TOPIC.fullmatch(text):
        return "a topic (at most 255 of letters, digits, '.', '_' and '-')"
    return ""


def _small(digits: str) -> bool:
    return len(digits) <= 5 and int(digits) <= _MAX_API_VERSION


def read_pairs(node: Node, fields: Fields) -> Pairs:
    """One rule of `l7`: keys and values that the parser understands."""
    if node.mapping is None:
        fields.fault(node, f"expected a mapping of keys and values, found {node.kind}", "write `key: value`")
        return ()
    if "" in node.mapping:
        fields.fault(node, "a key is empty", "name it")
    texts = {key: fields.text(child) for key, child in node.mapping.items()}
    return tuple(sorted((key, text) for key, text in texts.items() if text is not None))


def read_parser(node: Node, fields: Fields) -> str | None:
    """The name of a parser."""
    text = fields.text(node)
    if text is None:
        return None
    if text in _OWN_PARSERS:
        fields.fault(node, f"l7proto {text} has rules of its own", f"use rules.{text} where it exists")
        return None
    if not _PROTOCOL.fullmatch(text):
        fields.fault(node, f"{text[:40]!r} is not the name of a parser", "use letters, digits, '-' and '.'")
        return None
    return text
