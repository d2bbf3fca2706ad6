// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Keys, values and the event record, byte for byte. shim/maps/layout.py and shim/flows/record.py hold the
 * same; a test compares names, sizes and offsets. Addresses are 16 bytes with IPv4 as ::ffff:a.b.c.d;
 * `_be` is network byte order, everything else host order.
 */
#ifndef AXONEME_STRUCTS_H
#define AXONEME_STRUCTS_H

#include <linux/types.h>

struct address {
	union {
		__u8 bytes[16];
		__be32 words[4];
		__u64 halves[2];
	};
};

struct endpoint_entry {
	__u16 endpoint_id;
	__u8 flags; /* ENDPOINT_AUDIT */
	__u8 pad;
	__u32 identity;
	__u32 policy_generation; /* raised by the shim after it switched the inner policy map */
	__u8 ipv4[4];		 /* zeros: none */
	__u8 ipv6[16];		 /* zeros: none */
	__u8 mac[6];
	__u8 host_mac[6];
};

struct policy_key {
	__u32 prefix_length; /* identity 32, direction 8, protocol 8, port 16: 40 to 64 bits */
	__u32 identity;	     /* 0: any */
	__u8 direction;
	__u8 protocol;
	__be16 port_be; /* ICMP: type */
};

struct policy_entry {
	__u32 precedence; /* higher wins */
	__u32 cookie;	  /* the node's number of the rules behind the entry, 0: none */
	__be16 proxy_port_be;
	__u8 action;
	__u8 flags;	/* ENTRY_AUDIT, ENTRY_DEFAULT_ALLOW */
	__u8 port_bits; /* significant bits of protocol and port: 0, 8 or 8 + n */
	__u8 pad[3];
};

struct learned_key {
	__u32 endpoint_id;
	__u8 address[16];
};

struct learned_entry {
	__u32 identity;
	__u32 pad;
	__u64 expiry_ns; /* CLOCK_BOOTTIME */
};

struct ipcache_key {
	__u32 prefix_length;
	__u8 address[16];
};

struct ipcache_entry {
	__u32 identity;
	__u32 flags;
	__u8 tunnel_endpoint[16];
	__u8 encrypt_key;
	__u8 pad[3];
};

/* Slots of what was found lately, see remembered.h. `writes` is 0 in a slot that was never filled. */
struct remembered_identity {
	struct address address;
	__u64 epoch;
	__u32 identity;
	__u32 writes;
};

struct remembered_decision {
	__u64 subject; /* generation and peer's identity */
	__u64 question; /* endpoint, direction, protocol and port */
	__u64 epoch;
	__u32 cookie;
	__be16 proxy_port_be;
	__u8 reason;
	__u8 match_type;
	__u8 found;
	__u8 entry_flags;
	__u8 pad[2];
	__u32 writes;
};

/* The tuple of a connection's first packet. The direction is the enforcing one: what a sender's egress
 * allowed never satisfies a receiver's ingress. ICMP: source port = id (echo and timestamp, else 0),
 * destination port = type. */
struct ct_key {
	struct address source;
	struct address destination;
	__be16 source_port_be;
	__be16 destination_port_be;
	__u8 protocol;
	__u8 direction;
	__u16 endpoint_id;
};

struct ct_entry {
	__u64 last_seen_ns; /* CLOCK_MONOTONIC, renewed once a second */
	__u32 policy_generation;
	__u32 peer_identity;
	__u32 cookie;
	__u8 state;
	__u8 flags;
	__u8 match_type;
	__u8 cut_reason; /* drop reason of a connection that policy cut */
	__be16 proxy_port_be; /* the proxy that the connection is redirected to, 0: none */
	__u8 pad[6];
};

/* A service's frontend: what clients talk to. */
struct lb_key {
	struct address address;
	__be16 port_be;
	__u8 protocol;
	__u8 scope; /* LB_INSIDE, LB_OUTSIDE */
	__u32 pad;
};

/* What a frontend leads to. A set is a node-local number for a list of backends that frontends share. */
struct lb_service {
	__u32 set_id;
	__u16 slots; /* backends that take new connections; 0: none, packets are dropped */
	__u16 flags;
	__u32 affinity_seconds; /* with LB_AFFINITY */
	__u32 maglev_size;	/* elements of the set's table in axoneme_maglev; 0: a random slot */
};

struct lb_slot_key {
	__u32 set_id;
	__u32 slot; /* 0 to slots - 1 */
};

struct lb_backend {
	struct address address;
	__be16 port_be;
	__u8 protocol;
	__u8 flags; /* BACKEND_TERMINATING, BACKEND_LOCAL */
	__u32 pad;
};

struct lb_affinity_key {
	struct address client; /* sockets: cookie of the network namespace in the first half */
	__u32 set_id;
	__u32 socket; /* 1: `client` is a cookie */
};

struct lb_affinity {
	__u64 last_used_ns; /* CLOCK_MONOTONIC */
	__u32 backend_id;
	__u32 pad;
};

struct lb_source_key {
	__u32 prefix_length; /* set 32, address 128 */
	__u32 set_id;
	struct address address;
};

/* A packet as it arrives at one hook, and what it becomes there. Endpoint sides name their endpoint. */
struct nat_key {
	struct address source;
	struct address destination;
	__be16 source_port_be; /* ICMP: as in ct_key */
	__be16 destination_port_be;
	__u8 protocol;
	__u8 side; /* NAT_FROM_EP ... */
	__u16 endpoint_id;
};

struct nat_entry {
	struct address source;
	struct address destination;
	__be16 source_port_be;
	__be16 destination_port_be;
	__u32 backend_id; /* 0: no service */
	__u32 set_id;
	__u8 flags; /* NAT_SERVICE ... */
	__u8 state; /* TCP: CT_NEW, CT_ESTABLISHED, CT_CLOSING */
	__u16 pad;
	__u64 last_seen_ns; /* CLOCK_MONOTONIC, renewed once a second */
};

/* What a socket believed to talk to, found by what it really talks to, and the other way round. */
struct socket_key {
	__u64 cookie;
	struct address address;
	__be16 port_be;
	__u8 side; /* SOCKET_REAL, SOCKET_BELIEVED: whose address the key's is */
	__u8 pad[5];
};

struct socket_entry {
	struct address address;
	__be16 port_be;
	__u8 pad[2];
	__u32 set_id;
	__u32 backend_id;
	__u32 pad2;
};

/* An endpoint of this node by address. */
struct local_entry {
	__u32 ifindex; /* node's side */
	__u16 endpoint_id;
	__u8 mac[6];
	__u8 host_mac[6];
	__u8 pad[2];
};

struct node_ip {
	__u32 flags; /* NODE_IP_OWN, NODE_IP_TUNNEL_PEER */
};

struct node_config {
	struct address ipv4; /* source of translated packets; zeros: none */
	struct address ipv6;
	struct address loopback4; /* what a pod sees as client when it is its own backend */
	struct address loopback6;
	__u32 flags; /* NODE_TUNNEL ... */
	__u32 uplink_ifindex;
	__u32 overlay_ifindex; /* 0: none */
	__u32 host_policy_generation;
	__u16 nat_port_min; /* host order, inclusive */
	__u16 nat_port_max;
	__u8 uplink_mac[6];
	__u8 pad[6];
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 fragment_id;
	__u8 protocol; /* IPv6: next header of the fragment header */
	__u8 direction;
	__u16 endpoint_id;
};

struct fragment_entry {
	__u64 last_seen_ns;
	__be16 source_port_be;
	__be16 destination_port_be;
	__u8 protocol;
	__u8 pad[3];
};

/* By endpoint: forwarded and dropped packets of each direction. Drops by reason: axoneme_epdrops. */
struct endpoint_drop_key {
	__u16 endpoint_id;
	__u8 direction;
	__u8 reason;
};

struct metric_entry {
	__u64 packets;
	__u64 octets;
};

struct axoneme_event {
	__u64 time_ns; /* CLOCK_BOOTTIME */
	__u32 source_identity;
	__u32 destination_identity;
	__u8 source_ip[16];
	__u8 destination_ip[16];
	__u16 source_port;	/* ICMP: id */
	__u16 destination_port; /* ICMP: type */
	__u8 protocol;
	__u8 tcp_flags; /* ICMP: code */
	__u8 event_type;
	__u8 sub_type; /* trace: observation point; drop: reason */
	__u16 endpoint_id;
	__u8 direction; /* of the connection: a reply carries that of the packet it answers */
	__u8 flags;
	__u8 verdict;
	__u8 match_type;
	__u8 drop_reason;
	__u8 pad;
	__u32 cookie;
	__u32 ifindex;
	__u32 length;
	__u32 policy_generation;
	__u8 source_mac[6];
	__u8 destination_mac[6];
	__u32 pad2;
};

/* What parse() found; `key` is the packet's own tuple in the direction of the hook. */
struct packet {
	struct ct_key key;
	__u32 l4_offset;   /* from the Ethernet header; 0: a later fragment, no transport header */
	__u32 end;	   /* end of the IP packet, from the Ethernet header */
	__u32 fragment_id; /* network order */
	__u8 fragment_protocol;
	__u8 tcp_flags; /* ICMP: code */
	__u8 flags;	/* FLAG_IPV6, FLAG_FRAGMENT */
	__u8 first_fragment;
	__u8 icmp_error;
	__u8 pad[3];
};

/* What is to be counted and reported about a packet. */
struct report {
	__u64 time_ns; /* CLOCK_BOOTTIME; one for all records about a packet */
	__u32 peer_identity;
	__u32 cookie;
	__u32 identity;
	__u32 policy_generation;
	__u16 endpoint_id;
	__u8 hook; /* direction of the program */
	__u8 direction;
	__u8 flags;
	__u8 verdict;
	__u8 match_type;
	__u8 drop_reason;
	__u8 event_type;
	__u8 trace_point; /* of a trace event; 0: that of an endpoint's program */
	__u8 pad[6];
};

#endif
