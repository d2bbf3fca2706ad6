// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Connection tracking. An entry is found by a packet's own tuple, by the reversed one (replies), or by the
 * tuple that an ICMP error quotes (related). An LRU map bounds it; lifetimes are checked when an entry is
 * found.
 */
#ifndef AXONEME_CT_H
#define AXONEME_CT_H

#include "maps.h"
#include "parse.h"

#define RELATION_NEW 0
#define RELATION_ORIGINAL 1
#define RELATION_REPLY 2
#define RELATION_RELATED 3

struct connection {
	struct ct_entry *entry;
	struct ct_key key; /* the original tuple; find_connection() leaves it unset for RELATION_ORIGINAL */
	__u32 relation;
};

static __always_inline __u8 opposite(__u8 direction)
{
	return direction == INGRESS ? EGRESS : INGRESS;
}

static __always_inline __u64 lifetime_ns(const struct ct_entry *entry, __u8 protocol)
{
	__u32 seconds = ct_datagram_seconds;

	if (entry->state == CT_CUT)
		seconds = ct_cut_seconds;
	else if (entry->state == CT_CLOSING)
		seconds = ct_closing_seconds;
	else if (protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP)
		seconds = entry->state == CT_ESTABLISHED ? ct_established_seconds : ct_new_seconds;
	return seconds * NSEC_PER_SEC;
}

static __always_inline struct ct_entry *find_entry(const struct ct_key *key, __u64 now)
{
	struct ct_entry *entry = bpf_map_lookup_elem(&axoneme_ct, key);

	/* Another CPU may have renewed it after `now` was read. */
	if (!entry || (__s64)(now - entry->last_seen_ns) > (__s64)lifetime_ns(entry, key->protocol))
		return NULL;
	return entry;
}

/* The type of the request that an ICMP reply answers, or -1. */
static __always_inline int icmp_request_of(__u8 protocol, __u32 kind)
{
	if (protocol == IPPROTO_ICMPV6)
		return kind == ICMP6_ECHO_REPLY ? ICMP6_ECHO : -1;
	if (kind == ICMP4_ECHO_REPLY)
		return ICMP4_ECHO;
	return kind == ICMP4_TIMESTAMP_REPLY ? ICMP4_TIMESTAMP : -1;
}

static __always_inline int is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* Makes the tuple of the connection that a packet would be a reply of. Returns 0 when it cannot be one. */
static __always_inline int reverse(struct ct_key *key, const struct ct_key *tuple)
{
	key->source = tuple->destination;
	key->destination = tuple->source;
	key->protocol = tuple->protocol;
	key->direction = opposite(tuple->direction);
	key->endpoint_id = tuple->endpoint_id;
	if (is_icmp(tuple->protocol)) {
		int request = icmp_request_of(tuple->protocol, bpf_ntohs(tuple->destination_port_be));

		if (request < 0)
			return 0;
		key->source_port_be = tuple->source_port_be;
		key->destination_port_be = bpf_htons(request);
		return 1;
	}
	key->source_port_be = tuple->destination_port_be;
	key->destination_port_be = tuple->source_port_be;
	return 1;
}

/* A packet's own tuple is not copied here: most packets need no copy. */
static __always_inline void find_connection(struct connection *connection, const struct ct_key *tuple,
					    __u64 now)
{
	connection->relation = RELATION_ORIGINAL;
	connection->entry = find_entry(tuple, now);
	if (connection->entry)
		return;
	connection->relation = RELATION_NEW;
	if (!reverse(&connection->key, tuple))
		return;
	connection->entry = find_entry(&connection->key, now);
	if (connection->entry)
		connection->relation = RELATION_REPLY;
}

/* The tuple that an ICMP error quotes, travelling against the error. Returns 0 when the quote is of no
 * use. */
__noinline int read_quote(struct __sk_buff *skb, const struct packet *packet, struct ct_key *quote)
{
	struct icmp_head head = {};
	__be16 ports[2];
	__u32 offset;

	if (!packet || !quote)
		return 0;
	offset = packet->l4_offset + 8;
	if (packet->flags & FLAG_IPV6) {
		struct ipv6hdr ip = {};

		if (offset + IPV6_HEADER + 8 > packet->end || bpf_skb_load_bytes(skb, offset, &ip, IPV6_HEADER) ||
		    ip.version != 6)
			return 0;
		copy_address(&quote->source, &ip.saddr);
		copy_address(&quote->destination, &ip.daddr);
		quote->protocol = ip.nexthdr;
		offset += IPV6_HEADER;
	} else {
		struct iphdr ip = {};

		if (offset + IPV4_HEADER + 8 > packet->end || bpf_skb_load_bytes(skb, offset, &ip, IPV4_HEADER) ||
		    ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(FRAGMENT_OFFSET4))
			return 0;
		map_ipv4(&quote->source, ip.saddr);
		map_ipv4(&quote->destination, ip.daddr);
		quote->protocol = ip.protocol;
		offset += ip.ihl * 4;
	}
	if (offset + 8 > packet->end || bpf_skb_load_bytes(skb, offset, &head, 8))
		return 0;
	quote->direction = opposite(packet->key.direction);
	quote->endpoint_id = packet->key.endpoint_id;
	if (is_icmp(quote->protocol)) {
		quote->source_port_be = icmp_has_id(quote->protocol, head.kind) ? head.id : 0;
		quote->destination_port_be = bpf_htons(head.kind);
		return 1;
	}
	__builtin_memcpy(ports, &head, sizeof(ports));
	quote->source_port_be = ports[0];
	quote->destination_port_be = ports[1];
	return quote->protocol == IPPROTO_TCP || quote->protocol == IPPROTO_UDP || quote->protocol == IPPROTO_SCTP;
}

/* As reverse(), in place. */
static __always_inline int turn_round(struct ct_key *key)
{
	int request = is_icmp(key->protocol) ?
			      icmp_request_of(key->protocol, bpf_ntohs(key->destination_port_be)) :
			      0;
	__be16 port = key->source_port_be;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		__be32 word = key->source.words[i];

		key->source.words[i] = key->destination.words[i];
		key->destination.words[i] = word;
	}
	key->direction = opposite(key->direction);
	if (is_icmp(key->protocol)) {
		key->destination_port_be = bpf_htons(request);
		return request >= 0;
	}
	key->source_port_be = key->destination_port_be;
	key->destination_port_be = port;
	return 1;
}

/* The connection that an ICMP error is about, and its original tuple in `original`. RFC 5508: an error goes to
 * the source of what it quotes. */
static __always_inline struct ct_entry *find_related(struct __sk_buff *skb, struct ct_key *original,
						     const struct packet *packet, __u64 now)
{
	struct ct_entry *entry;

	if (!read_quote(skb, packet, original) || !same_words(&original->source, &packet->key.destination))
		return NULL;
	entry = find_entry(original, now);
	if (entry)
		return entry;
	return turn_round(original) ? find_entry(original, now) : NULL;
}

/*
 * A SYN that opens something new although a tuple matches: on an entry that is over, or against the
 * direction of one that is up (a peer may not use the port of an old connection to get past ingress
 * policy).
 */
static __always_inline int opens_anew(const struct ct_entry *entry, __u32 relation, const struct packet *packet)
{
	__u8 state = entry->state;

	if (relation == RELATION_ORIGINAL && state == CT_CUT)
		return 1;
	if (packet->key.protocol != IPPROTO_TCP || !packet->l4_offset ||
	    (packet->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	return state == CT_CLOSING || (relation == RELATION_REPLY && state != CT_NEW);
}

static __always_inline __u8 finish_flags(__u32 relation, const struct packet *packet)
{
	if (!(packet->tcp_flags & TCP_FIN))
		return 0;
	return relation == RELATION_REPLY ? CT_FIN_REPLY : CT_FIN_ORIGINAL;
}

static __always_inline void renew(struct ct_entry *entry, __u64 now)
{
	if ((__s64)(now - entry->last_seen_ns) > (__s64)NSEC_PER_SEC)
		entry->last_seen_ns = now;
}

/* Follows the connection with a packet that passes. Written only when something changes: the line is
 * shared by CPUs. */
static __always_inline void advance(struct ct_entry *entry, __u32 relation, const struct packet *packet, __u64 now)
{
	__u8 flags = entry->flags, state = entry->state;

	if (relation == RELATION_RELATED)
		return;
	if (relation == RELATION_REPLY) {
		flags |= CT_REPLY_SEEN;
		if (state == CT_NEW)
			state = CT_ESTABLISHED;
	}
	if (packet->key.protocol == IPPROTO_TCP) {
		flags |= finish_flags(relation, packet);
		if (packet->tcp_flags & TCP_RST ||
		    (flags & (CT_FIN_ORIGINAL | CT_FIN_REPLY)) == (CT_FIN_ORIGINAL | CT_FIN_REPLY))
			state = CT_CLOSING;
	}
	if (flags != entry->flags)
		entry->flags = flags;
	if (state != entry->state)
		entry->state = state;
	renew(entry, now);
}

#endif
