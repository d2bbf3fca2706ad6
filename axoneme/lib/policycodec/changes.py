"""SubjectChange: a subject's policy whole, or as the difference to what the receiver holds.

The body, everything but the subject itself, is made as bytes: subjects with the same policy and all nodes
that hold the same version share it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.policy.model import Contribution, SubjectPolicy
from axoneme.lib.policycodec.differences import difference, whole
from axoneme.lib.policycodec.digests import SummedContributions, digest_of, hash_sum, sum_of
from axoneme.lib.policycodec.entries import decode_entry
from axoneme.lib.policycodec.header import check_references, decode_header, header_bytes
from axoneme.lib.policycodec.keys import subject_bytes
from axoneme.lib.policycodec.wirefields import field_of, repeated

_subject: Final = field_of(pb.SubjectChange, "subject")
_added: Final = field_of(pb.SubjectChange, "added")
_removed: Final = field_of(pb.SubjectChange, "removed")
_header: Final = field_of(pb.SubjectChange, "header")
_COMPLETE: Final = pb.SubjectChange(complete=True).SerializeToString()


def encode_change(key: str, policy: SubjectPolicy, previous: SubjectPolicy | None = None) -> pb.SubjectChange:
    """What to send for `policy` to a receiver that has `previous` (None: nothing, so it gets everything)."""
    return pb.SubjectChange.FromString(subject_field(key) + change_body(policy, previous))


@functools.lru_cache(maxsize=65_536)
def subject_field(key: str) -> bytes:
    """The field of a serialised SubjectChange that names its subject; a body of `change_body` follows it."""
    return _subject(subject_bytes(key))


def change_body(policy: SubjectPolicy, previous: SubjectPolicy | None = None) -> bytes:
    """A serialised SubjectChange without its subject."""
    if previous is None:
        content = _COMPLETE + repeated(_added, whole(policy.contributions))
    else:
        found = difference(previous.contributions, policy.contributions)
        content = repeated(_added, found.added) + repeated(_removed, found.removed)
    return content + _header(header_bytes(policy))


def decode_change(change: pb.SubjectChange, current: SubjectPolicy | None) -> SubjectPolicy:
    """The policy after a change onto `current`.

    Raises Unsupported for an unknown kind or number, InvalidArgument for a malformed entry, and
    InvalidArgument with the reason DIGEST_MISMATCH when the result is not what the sender meant: ask for
    a snapshot then.
    """
    if not change.complete and current is None:
        raise _mismatch("a change came for a subject of which nothing is known")
    base = None if change.complete else current
    removed, removed_sum = _decode_entries(change.removed)
    added, added_sum = _decode_entries(change.added)
    contributions = set[Contribution]() if base is None else set(base.contributions)
    contributions -= removed
    contributions |= added
    base_sum = 0 if base is None else sum_of(base.contributions)
    summed = SummedContributions.of(contributions, base_sum + added_sum - removed_sum)
    policy = decode_header(change.header, summed)
    kept_definitions = base is not None and base.selectors.keys() <= policy.selectors.keys()
    check_references(added if kept_definitions else contributions, policy.selectors)
    if len(contributions) != change.header.entry_count:
        raise _mismatch(f"{len(contributions)} entries result, the header says {change.header.entry_count}")
    if digest_of(summed.entries_sum, policy) != change.header.digest:
        raise _mismatch("the digest of the entries is not the one in the header")
    return policy


def _decode_entries(entries: Iterable[pb.PolicyEntry]) -> tuple[set[Contribution], int]:
    """The contributions and the sum of their hashes, over the bytes as they came: with unknown fields too."""
    found = set[Contribution]()
    raw = []
    for entry in entries:
        found.add(decode_entry(entry))
        raw.append(entry.SerializeToString(deterministic=True))
    return found, hash_sum(raw)


def _mismatch(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="DIGEST_MISMATCH")
