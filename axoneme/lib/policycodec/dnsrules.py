"""DNS rules of a subject as DnsRules and back, and the digest that ties them to the subject's redirects.

A filter is decoded in full or not at all: what this version does not know fails the one subject with
Unsupported, what is malformed with InvalidArgument. Neither ever reads as "every name" or "every server".
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import FqdnDefinition, SelectorPeer
from axoneme.lib.policy.ports import PORT_BITS, PortBlock
from axoneme.lib.policycodec.definitions import decode_definitions, selector_bytes
from axoneme.lib.policycodec.entries import decode_peer, encode_peer
from axoneme.lib.policycodec.keys import decode_subject, subject_bytes
from axoneme.lib.policycodec.wirefields import field_of, repeated

MAX_NAME: Final = 255
_MAX_LEVEL: Final = 0xFFFFFF
_PROTOCOLS: Final = (0, 6, 17)
_NAME: Final = re.compile(r"[-a-z0-9_]+(\.[-a-z0-9_]+)*")
_PATTERN: Final = re.compile(r"[-a-z0-9_*]+(\.[-a-z0-9_*]+)*")

_subject: Final = field_of(pb.DnsRules, "subject")
_digest: Final = field_of(pb.DnsRules, "digest")
_rule: Final = field_of(pb.DnsRules, "rules")
_selector: Final = field_of(pb.DnsRules, "selectors")
_server: Final = field_of(pb.DnsRule, "server")


def digest_of(rules: Iterable[DnsRule]) -> bytes:
    """The digest of some rules, whatever their order: 32 bytes."""
    return _digest_of_raw(map(_rule_bytes, rules))


def encode_rules(key: str, rules: DnsRules) -> pb.DnsRules:
    """The rules of a subject. Raises InvalidArgument for what is no key."""
    return pb.DnsRules.FromString(rules_subject(key) + rules_body(rules))


@functools.lru_cache(maxsize=65_536)
def rules_subject(key: str) -> bytes:
    """The field of a serialised DnsRules that names its subject; a body of `rules_body` follows it."""
    return _subject(subject_bytes(key))


def rules_body(rules: DnsRules) -> bytes:
    """A serialised DnsRules without its subject: subjects with the same rules share it."""
    selectors = (selector_bytes(key, rules.selectors[key]) for key in sorted(rules.selectors))
    raw = sorted(map(_rule_bytes, rules.rules))
    return _digest(rules.digest) + repeated(_rule, raw) + repeated(_selector, selectors)


def decode_rules(message: pb.DnsRules) -> tuple[str, DnsRules]:
    """The key of a subject and its rules.

    Raises Unsupported for what this version does not know, InvalidArgument for what is malformed, and
    InvalidArgument with the reason DIGEST_MISMATCH when the rules are not those that the digest names.
    """
    key = decode_subject(message.subject)
    raw = [rule.SerializeToString(deterministic=True) for rule in message.rules]
    if _digest_of_raw(raw) != message.digest:
        raise InvalidArgument(f"the digest is not that of the rules of {key}", reason="DIGEST_MISMATCH")
    rules = frozenset(map(_decode_rule, message.rules))
    if len(rules) != len(raw):
        raise InvalidArgument(f"a DNS rule of {key} stands there twice")
    selectors = decode_definitions(message.selectors)
    for rule in rules:
        if isinstance(rule.peer, SelectorPeer) and rule.peer.key not in selectors:
            raise InvalidArgument(f"a DNS rule refers to selector {rule.peer.key!r}, which is not defined")
    return key, DnsRules(rules=rules, selectors=selectors, digest=message.digest)


def _digest_of_raw(rules: Iterable[bytes]) -> bytes:
    found = hashlib.sha256()
    for raw in sorted(rules):
        found.update(len(raw).to_bytes(4, "big"))
        found.update(raw)
    return found.digest()


@functools.lru_cache(maxsize=16_384)
def _rule_bytes(rule: DnsRule) -> bytes:
    """The deterministic serialisation of a rule: the server is its first field."""
    return encode_peer(rule.peer, _server) + _limits_bytes(
        rule.protocol, rule.port, rule.prefix_length, rule.level, rule.every_name, rule.names
    )


@functools.lru_cache(maxsize=4_096)
def _limits_bytes(
    protocol: int,
    port: int,
    prefix_length: int,
    level: int,
    every_name: bool,
    names: frozenset[FqdnDefinition],
) -> bytes:
    """Everything of a rule but its server: rules of one entry for many servers have it in common."""
    ordered = sorted(names, key=lambda one: (one.text, one.pattern))
    return pb.DnsRule(
        protocol=protocol,
        port=port,
        prefix_length=prefix_length,
        level=level,
        every_name=every_name,
        names=[pb.DnsName(text=one.text, pattern=one.pattern) for one in ordered],
    ).SerializeToString(deterministic=True)


def _decode_rule(rule: pb.DnsRule) -> DnsRule:
    _refuse_unknown_fields(rule)
    if rule.protocol not in _PROTOCOLS:
        raise Unsupported(f"DNS rules for protocol {rule.protocol} are not known to this version")
    if rule.level > _MAX_LEVEL:
        raise InvalidArgument(f"the level {rule.level} of a DNS rule is more than {_MAX_LEVEL}")
    names = frozenset(map(_decode_name, rule.names))
    if len(names) != len(rule.names):
        raise InvalidArgument("a DNS rule has a name twice")
    if rule.every_name == bool(names):
        raise InvalidArgument("a DNS rule has either names or every_name")
    try:
        _check_block(rule.port, rule.prefix_length)
        peer = decode_peer(rule.server)
    except ValueError as error:
        raise InvalidArgument(f"a DNS rule is malformed: {error}") from error
    return DnsRule(
        peer=peer,
        protocol=rule.protocol,
        port=rule.port,
        prefix_length=rule.prefix_length,
        level=rule.level,
        every_name=rule.every_name,
        names=names,
    )


def _check_block(port: int, prefix_length: int) -> None:
    """Raises ValueError for what is no aligned block of ports; of protocol 6 in the name of both."""
    if prefix_length > PORT_BITS:
        raise ValueError(f"prefix length {prefix_length} is not within 0..{PORT_BITS}")
    PortBlock(6, port, prefix_length)


def _decode_name(name: pb.DnsName) -> FqdnDefinition:
    form = _PATTERN if name.pattern else _NAME
    if len(name.text) > MAX_NAME or not form.fullmatch(name.text):
        kind = "pattern" if name.pattern else "name"
        raise InvalidArgument(f"{name.text[:80]!r} is not a DNS {kind} in canonical form")
    return FqdnDefinition(name.text, name.pattern)


def _refuse_unknown_fields(rule: pb.DnsRule) -> None:
    """A condition that is not understood would be skipped, which lets more names through than were meant."""
    known = pb.DnsRule()
    known.CopyFrom(rule)
    known.DiscardUnknownFields()
    if known.ByteSize() != rule.ByteSize():
        raise Unsupported("a DNS rule has a field that this version does not know")
