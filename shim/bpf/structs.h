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
	__u8 pad[7];
};

#endif
