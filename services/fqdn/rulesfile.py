"""The last rules of every subject, on disk: a restarted proxy judges by them before it heard from anybody."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policycodec.dnsrules import decode_rules, encode_rules

logger = logging.getLogger(__name__)

_LENGTH_BYTES: Final = 4


def save_rules(path: Path, rules: Mapping[str, DnsRules]) -> None:
    """Replaces the file: serialised DnsRules, each with its length before it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for key, one in rules.items():
            raw = encode_rules(key, one).SerializeToString()
            file.write(len(raw).to_bytes(_LENGTH_BYTES, "big") + raw)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)


def load_rules(path: Path) -> dict[str, DnsRules]:
    """What `save_rules` wrote; what cannot be understood is left out, and comes again with the stream."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.warning("rules not read", extra={log.ERROR: log.clip(error)})
        return {}
    return dict(_decoded(raw))


def _decoded(raw: bytes) -> Iterator[tuple[str, DnsRules]]:
    at = 0
    while at + _LENGTH_BYTES <= len(raw):
        length = int.from_bytes(raw[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES + length
        if at > len(raw):
            return
        try:
            yield decode_rules(pb.DnsRules.FromString(raw[at - length : at]))
        except (AxonemeError, DecodeError) as error:
            logger.warning("stored rules not understood", extra={log.ERROR: log.clip(error)})
