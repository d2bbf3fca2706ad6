// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Numbers of the datapath. Drop reasons and verdicts are those of flow.DropReason and flow.Verdict
 * (Hubble). */
#ifndef AXONEME_CONSTS_H
#define AXONEME_CONSTS_H

#define INGRESS 1 /* towards the endpoint */
#define EGRESS 2  /* from the endpoint */

#define ACTION_ALLOW 1
#define ACTION_DENY 2
#define ACTION_REDIRECT 3

#define ENDPOINT_AUDIT 1	/* endpoint_entry.flags */
#define ENTRY_AUDIT 1		/* policy_entry.flags */
#define ENTRY_DEFAULT_ALLOW 2	/* policy_entry.flags: nothing enforces this direction */

#define CT_REPLY_SEEN 1	       /* ct_entry.flags */
#define CT_AUDIT 2	       /* passed only because a denial is reported, not enforced */
#define CT_LEARNED 4	       /* the peer's identity came from a DNS name */
#define CT_FIN_ORIGINAL 8
#define CT_FIN_REPLY 16
#define CT_AUDIT_ENDPOINT 32   /* ... by the endpoint's switch, which may be turned off */

#define CT_NEW 1	 /* ct_entry.state: no reply yet */
#define CT_ESTABLISHED 2 /* reply seen */
#define CT_CLOSING 3	 /* TCP: reset, or both sides finished */
#define CT_CUT 4	 /* ended by a new policy; kept so that its replies don't pass as something new */

#define EVENT_DROP 1
#define EVENT_TRACE 4
#define EVENT_POLICY_VERDICT 5

#define TRACE_TO_ENDPOINT 0
#define TRACE_TO_STACK 3

#define FLAG_IPV6 1 /* axoneme_event.flags */
#define FLAG_REPLY_KNOWN 2
#define FLAG_REPLY 4
#define FLAG_AUDIT 8
#define FLAG_FRAGMENT 16
#define FLAG_RELATED 32

#define VERDICT_FORWARDED 1
#define VERDICT_DROPPED 2
#define VERDICT_AUDIT 4

#define DROP_INVALID_SOURCE_IP 132
#define DROP_POLICY_DENIED 133 /* no entry: default deny */
#define DROP_INVALID_PACKET 134
#define DROP_TRUNCATED_HEADER 135
#define DROP_UNKNOWN_L4_PROTOCOL 137
#define DROP_UNSUPPORTED_L3_PROTOCOL 139
#define DROP_CT_INSERTION_FAILED 155
#define DROP_INVALID_EXTENSION_HEADER 156
#define DROP_NO_CONFIGURATION 165 /* an action that this program does not know */
#define DROP_UNSUPPORTED_L2_PROTOCOL 166
#define DROP_INVALID_IDENTITY 171
#define DROP_FIRST_FRAGMENT_NOT_FOUND 175
#define DROP_FORBIDDEN_ICMPV6_MESSAGE 176
#define DROP_REDIRECT_WITHOUT_PROXY 180
#define DROP_POLICY_DENY 181 /* a deny entry */
#define DROP_VLAN_FILTERED 182
#define DROP_EP_NOT_READY 203

#define PASS_UNJUDGED (-1) /* parse(): ARP and neighbour discovery */

/* Match types of policy events: what the deciding entry named. */
#define MATCH_NONE 0
#define MATCH_L3_ONLY 1
#define MATCH_L3_L4 2
#define MATCH_L4_ONLY 3
#define MATCH_ALL 4
#define MATCH_L3_PROTOCOL 5
#define MATCH_PROTOCOL_ONLY 6

#define METRIC_REASONS 256
#define METRIC_LOST_EVENTS (2 * METRIC_REASONS)
#define METRIC_SLOTS (METRIC_LOST_EVENTS + 1)

#define NSEC_PER_SEC 1000000000ULL

#define ETH_HEADER 14
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define IPV6_MAX_EXTENSIONS 8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#ifndef ETH_P_802_3_MIN
#define ETH_P_802_3_MIN 0x0600
#endif

#endif
