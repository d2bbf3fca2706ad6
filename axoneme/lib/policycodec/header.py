"""SubjectHeader: everything of a subject's policy but its entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.policy.model import (
    Contribution,
    Enforcement,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
)
from axoneme.lib.policycodec.definitions import (
    decode_definitions,
    decode_origin,
    origin_bytes,
    selector_bytes,
)
from axoneme.lib.policycodec.digests import wire_digest
from axoneme.lib.policycodec.wirefields import field_of, repeated

_DIGEST_BYTES: Final = 32
_selector_field: Final = field_of(pb.SubjectHeader, "selectors")
_origin_field: Final = field_of(pb.SubjectHeader, "origins")


def header_bytes(policy: SubjectPolicy) -> bytes:
    """The header of a policy, serialised."""
    small = pb.SubjectHeader(
        ingress=pb.Enforcement.ValueType(policy.ingress),
        egress=pb.Enforcement.ValueType(policy.egress),
        entry_count=len(policy.contributions),
        digest=wire_digest(policy),
        ingress_default_deny_origin_ids=sorted(policy.ingress_default_deny),
        egress_default_deny_origin_ids=sorted(policy.egress_default_deny),
        policy_revision=policy.policy_revision,
        audit_ingress=pb.Enforcement.ValueType(policy.audit_ingress or 0),
        audit_egress=pb.Enforcement.ValueType(policy.audit_egress or 0),
        dns_rules_digest=policy.dns_rules_digest,
    )
    selectors = (selector_bytes(key, policy.selectors[key]) for key in sorted(policy.selectors))
    origins = (origin_bytes(policy.origins[number]) for number in sorted(policy.origins))
    return small.SerializeToString() + repeated(_selector_field, selectors) + repeated(_origin_field, origins)


def decode_header(header: pb.SubjectHeader, contributions: AbstractSet[Contribution]) -> SubjectPolicy:
    """The policy of a header with its contributions. Raises Unsupported or InvalidArgument."""
    origins = map(decode_origin, (one.SerializeToString(deterministic=True) for one in header.origins))
    return SubjectPolicy(
        ingress=_decode_enforcement(header.ingress),
        egress=_decode_enforcement(header.egress),
        audit_ingress=_decode_audited(header.audit_ingress),
        audit_egress=_decode_audited(header.audit_egress),
        contributions=contributions,
        selectors=decode_definitions(header.selectors),
        origins={origin.origin_id: origin for origin in origins},
        ingress_default_deny=frozenset(header.ingress_default_deny_origin_ids),
        egress_default_deny=frozenset(header.egress_default_deny_origin_ids),
        dns_rules_digest=_decode_dns_digest(header.dns_rules_digest),
        policy_revision=header.policy_revision,
    )


def check_references(
    contributions: Iterable[Contribution], selectors: Mapping[str, SelectorDefinition]
) -> None:
    """Every selector that an entry refers to is defined. Raises InvalidArgument."""
    for one in contributions:
        if isinstance(one.peer, SelectorPeer) and one.peer.key not in selectors:
            raise InvalidArgument(f"an entry refers to selector {one.peer.key!r}, which the header lacks")


def _decode_dns_digest(digest: bytes) -> bytes:
    if len(digest) not in (0, _DIGEST_BYTES):
        raise InvalidArgument(f"the digest of DNS rules has {len(digest)} bytes, not {_DIGEST_BYTES}")
    return digest


def _decode_enforcement(number: int) -> Enforcement:
    try:
        return Enforcement(number)
    except ValueError as error:
        raise Unsupported(f"enforcement {number} is not known to this version") from error


def _decode_audited(number: int) -> Enforcement | None:
    return None if number == pb.ENFORCEMENT_UNSPECIFIED else _decode_enforcement(number)
