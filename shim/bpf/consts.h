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

#define ENDPOINT_AUDIT 1	  /* endpoint_entry.flags */
#define ENDPOINT_AGGREGATION 0x0e /* ... AggregationLevel of its traces; 0: the node's */
#define ENDPOINT_AGGREGATION_SHIFT 1
#define ENDPOINT_LEARNED 0x10 /* ... it has addresses in axoneme_learned; without it nobody looks there */
#define ENTRY_AUDIT 1		/* policy_entry.flags */
#define ENTRY_DEFAULT_ALLOW 2	/* policy_entry.flags: nothing enforces this direction */

#define CT_REPLY_SEEN 1	       /* ct_entry.flags */
#define CT_AUDIT 2	       /* passed only because a denial is reported, not enforced */
#define CT_LEARNED 4	       /* the peer's identity came from a DNS name */
#define CT_FIN_ORIGINAL 8
#define CT_FIN_REPLY 16
#define CT_AUDIT_ENDPOINT 32   /* ... by the endpoint's switch, which may be turned off */
#define CT_TRANSLATED 64       /* replies go through axoneme_nat before they leave the program */
#define CT_CARRIED 128	       /* the peer's identity came with the packet (tunnel), not from its address */

#define CT_NEW 1	 /* ct_entry.state: no reply yet */
#define CT_ESTABLISHED 2 /* reply seen */
#define CT_CLOSING 3	 /* TCP: reset, or both sides finished */
#define CT_CUT 4	 /* ended by a new policy; kept so that its replies don't pass as something new */

#define EVENT_DROP 1
#define EVENT_TRACE 4
#define EVENT_POLICY_VERDICT 5

#define TRACE_TO_ENDPOINT 0 /* axoneme_event.sub_type: observation points of Hubble */
#define TRACE_TO_PROXY 1
#define TRACE_TO_HOST 2
#define TRACE_TO_STACK 3
#define TRACE_TO_OVERLAY 4
#define TRACE_FROM_ENDPOINT 5
#define TRACE_FROM_HOST 7
#define TRACE_FROM_STACK 8
#define TRACE_FROM_OVERLAY 9
#define TRACE_FROM_NETWORK 10
#define TRACE_TO_NETWORK 11

#define FLAG_IPV6 1 /* axoneme_event.flags */
#define FLAG_REPLY_KNOWN 2
#define FLAG_REPLY 4
#define FLAG_AUDIT 8
#define FLAG_FRAGMENT 16
#define FLAG_RELATED 32

#define VERDICT_FORWARDED 1
#define VERDICT_DROPPED 2
#define VERDICT_AUDIT 4
#define VERDICT_REDIRECTED 5 /* to the proxy */

#define DROP_INVALID_SOURCE_IP 132
#define DROP_POLICY_DENIED 133 /* no entry: default deny */
#define DROP_INVALID_PACKET 134
#define DROP_TRUNCATED_HEADER 135
#define DROP_UNKNOWN_L4_PROTOCOL 137
#define DROP_UNSUPPORTED_L3_PROTOCOL 139
#define DROP_WRITE_ERROR 141
#define DROP_TUNNEL_KEY 147
#define DROP_CT_INSERTION_FAILED 155
#define DROP_INVALID_EXTENSION_HEADER 156
#define DROP_FRAGMENTS_NOT_SUPPORTED 157 /* of what goes to the proxy */
#define DROP_SERVICE_BACKEND_NOT_FOUND 158
#define DROP_NO_CONFIGURATION 165 /* an action that this program does not know */
#define DROP_UNSUPPORTED_L2_PROTOCOL 166
#define DROP_INVALID_IDENTITY 171
#define DROP_NO_ENCAPSULATION_ENDPOINT 160
#define DROP_NO_NAT_MAPPING 167	   /* no free port, or a reply to nothing */
#define DROP_NAT_PROTOCOL 168	   /* a protocol that cannot be translated this way */
#define DROP_FIB_LOOKUP_FAILED 169
#define DROP_ENCAPSULATION_PROHIBITED 170 /* tunnel packets from a pod or a stranger */
#define DROP_FIRST_FRAGMENT_NOT_FOUND 175
#define DROP_FORBIDDEN_ICMPV6_MESSAGE 176
#define DROP_NOT_IN_SOURCE_RANGE 177
#define DROP_REDIRECT_WITHOUT_PROXY 180 /* nobody listens, or no proxy takes this */
#define DROP_POLICY_DENY 181 /* a deny entry */
#define DROP_VLAN_FILTERED 182
#define DROP_INVALID_VNI 183
#define DROP_TTL_EXCEEDED 196
#define DROP_HOST_NOT_READY 202
#define DROP_EP_NOT_READY 203

#define PASS_UNJUDGED (-1) /* parse(): ARP and neighbour discovery */

#define AGGREGATION_NONE 1   /* a trace of every packet */
#define AGGREGATION_LOW 2    /* of every packet to an endpoint */
#define AGGREGATION_MEDIUM 3 /* of what begins, changes flags, and one in every window */
#define AGGREGATION_MAXIMUM 4
#define TRACE_WINDOW_NS (5 * NSEC_PER_SEC)

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
#define METRIC_ENDPOINTS 4096 /* endpoints with counters of their own: numbers below this */

#define REMEMBERED_BITS 10 /* slots of axoneme_ipseen and axoneme_decided, by their number's bits */

#define LB_INSIDE 0  /* lb_key.scope: clients on this node, pods and host */
#define LB_OUTSIDE 1 /* ... packets that come in on the uplink */

#define LB_AFFINITY 1	   /* lb_service.flags */
#define LB_SOURCE_RANGES 2 /* only addresses in axoneme_lb_source may use it from outside */
#define LB_LOCAL_ONLY 4	   /* externalTrafficPolicy Local: only backends of this node, so never SNAT */
#define LB_DSR 8	   /* remote backends answer clients directly */
#define LB_NOT_SOCKET 16   /* socket load balancing leaves it to the per-packet programs */

#define BACKEND_TERMINATING 1 /* lb_backend.flags: keeps the connections it has */
#define BACKEND_LOCAL 2	      /* an endpoint of this node */

#define NAT_FROM_EP 1	/* nat_key.side: the hook at which a packet with this tuple is translated */
#define NAT_TO_EP 2
#define NAT_FROM_NET 3
#define NAT_TO_NET 4

#define NAT_SERVICE 1	 /* nat_entry.flags */
#define NAT_HAIRPIN 2	 /* the client is its own backend: its source became the loopback address */
#define NAT_MASQUERADE 4 /* the source became the node's address */
#define NAT_RETURN 8	 /* what undoes another entry */
#define NAT_DSR_CLIENT 16 /* direct return: the frontend is on one node, its backend on another (dsr.h) */
#define NAT_FIN 32	  /* the side that this entry translates has finished */

#define SOCKET_REAL 0	  /* socket_key.side: the address is a backend's, the value a frontend */
#define SOCKET_BELIEVED 1 /* the address is a frontend's, the value the backend chosen for it */

#define NODE_TUNNEL 1 /* node_config.flags */
#define NODE_MASQUERADE4 2
#define NODE_MASQUERADE6 4
#define NODE_HOST_ROUTING 8
#define NODE_HOST_FIREWALL 16
#define NODE_HOST_AUDIT 32
#define NODE_PROXY 64 /* axoneme_proxied has a bit: there may be answers to the proxy */

#define NODE_IP_OWN 1 /* node_ip.flags */
#define NODE_IP_TUNNEL_PEER 2

#define HOST_ENDPOINT_ID 0 /* policies and connections of the node itself */

#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2
#define IDENTITY_UNMANAGED 3
#define IDENTITY_HEALTH 4
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_WORLD4 9
#define IDENTITY_WORLD6 10
#define IDENTITY_LOCAL_SCOPE 0x01000000 /* from here on: numbers of this node only */

/* skb->mark: a kind and an identity. Crossing a network namespace clears it, so no pod can set it. */
#define MARK_KIND 0xff000000
#define MARK_NUMBER 0x00ffffff
#define MARK_IDENTITY 0xa1000000 /* the source's identity, whatever its address says */
#define MARK_HAIRPIN 0xa2000000	 /* a pod's packet to itself on its way back in */
#define MARK_TO_PROXY 0xa3000000   /* delivered on this node, whatever its destination */
#define MARK_FROM_PROXY 0xa4000000 /* of every socket of the DNS proxy */

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
