"""A subject's policy between the model of `axoneme.lib.policy` and its wire form.

    keys          subject:<number> | host:<node>  <->  Subject
    entries       Contribution                    <->  PolicyEntry
    header        enforcements, definitions …     <->  SubjectHeader
    digests       what SubjectHeader.digest covers, added up once per group of contributions
    differences   what one policy has that another has not, group by group
    changes       all of it: SubjectChange, whole or as a difference
    dnsrules      DnsRules                        <->  DnsRules of the API, with their digest
    dnsstream     both ends of SubscribeDnsRules

The policy service encodes changes from what a node was last sent to what it should have; the shim decodes
them onto what it has and checks the digest. A kind, action or enforcement that this version does not know
fails the one subject with Unsupported, a malformed one with InvalidArgument: neither ever reads as "any",
"allow" or "nobody".
"""

from axoneme.lib.policy.subjects import host_key, subject_key
from axoneme.lib.policycodec.changes import change_body, decode_change, encode_change, subject_field
from axoneme.lib.policycodec.digests import wire_digest
from axoneme.lib.policycodec.keys import (
    decode_subject,
    encode_subject,
    host_node,
    interest_message,
    subject_bytes,
    subject_keys,
    subject_number,
)

__all__ = [
    "change_body",
    "decode_change",
    "decode_subject",
    "encode_change",
    "encode_subject",
    "host_key",
    "host_node",
    "interest_message",
    "subject_bytes",
    "subject_field",
    "subject_key",
    "subject_keys",
    "subject_number",
    "wire_digest",
]
