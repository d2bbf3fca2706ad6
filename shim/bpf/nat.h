// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Address translation: one map, keyed by a packet as it arrives at a hook, says what it becomes there. A
 * translated connection has two entries that undo each other; what one of them learns about the connection's
 * life, the other learns too.
 *
 * Checksums are changed by differences, through the kernel's helpers, which know whether a checksum is
 * complete, partial or left to the device.
 */
#ifndef AXONEME_NAT_H
#define AXONEME_NAT_H

#include "lbmaps.h"
#include "ct.h"

#define IPV4_CHECKSUM 10 /* offsets in headers */
#define IPV4_SOURCE 12
#define IPV6_SOURCE 8
#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6
#define ICMP_CHECKSUM 2
#define ICMP_ID 4
#define ICMP_HEADER 8

/* The type that answers an ICMP type, or -1. */
static __always_inline int icmp_answer_of(__u8 protocol, __u32 kind)
{
	if (protocol == IPPROTO_ICMPV6) {
		if (kind == ICMP6_ECHO)
			return ICMP6_ECHO_REPLY;
	} else if (kind == ICMP4_ECHO) {
		return ICMP4_ECHO_REPLY;
	} else if (kind == ICMP4_TIMESTAMP) {
		return ICMP4_TIMESTAMP_REPLY;
	}
	return icmp_request_of(protocol, kind);
}

/* The tuple of the packet that answers one with `tuple`, which may be an answer itself. Returns 0 when nothing
 * can. Direction and endpoint stay. */
static __always_inline int answer_of(struct ct_key *answer, const struct ct_key *tuple)
{
	int kind;

	answer->source = tuple->destination;
	answer->destination = tuple->source;
	answer->source_port_be = tuple->destination_port_be;
	answer->destination_port_be = tuple->source_port_be;
	answer->protocol = tuple->protocol;
	answer->direction = tuple->direction;
	answer->endpoint_id = tuple->endpoint_id;
	if (!is_icmp(tuple->protocol))
		return 1;
	kind = icmp_answer_of(tuple->protocol, bpf_ntohs(tuple->destination_port_be));
	if (kind < 0)
		return 0;
	answer->source_port_be = tuple->source_port_be;
	answer->destination_port_be = bpf_htons(kind);
	return 1;
}

static __always_inline __u64 translation_lifetime_ns(const struct nat_entry *entry, __u8 protocol)
{
	__u32 seconds = ct_datagram_seconds;

	if (entry->state == CT_CLOSING)
		seconds = ct_closing_seconds;
	else if (protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP)
		seconds = entry->state == CT_ESTABLISHED ? ct_established_seconds : ct_new_seconds;
	return seconds * NSEC_PER_SEC;
}

static __always_inline void nat_key_of(struct nat_key *key, const struct ct_key *tuple, __u8 side, __u16 endpoint_id)
{
	_Static_assert(sizeof(*key) == sizeof(*tuple), "a tuple with its hook, as in axoneme_ct");
	copy_words(key, tuple, sizeof(*key));
	key->side = side;
	key->endpoint_id = endpoint_id;
}

/* As find_translation(), by a whole key: an nat_key, or a ct_key with the side for its direction. */
static __always_inline struct nat_entry *translation_at(const void *key, __u8 protocol, __u64 now)
{
	struct nat_entry *entry = bpf_map_lookup_elem(&axoneme_nat, key);

	if (!entry || (__s64)(now - entry->last_seen_ns) > (__s64)translation_lifetime_ns(entry, protocol))
		return NULL;
	return entry;
}

/* What a packet becomes at a hook. NULL: none, or the entry has expired. */
static __always_inline struct nat_entry *find_translation(const struct ct_key *tuple, __u8 side, __u16 endpoint_id,
							  __u64 now)
{
	struct nat_key key;

	nat_key_of(&key, tuple, side, endpoint_id);
	return translation_at(&key, tuple->protocol, now);
}

/* Returns 0, else DROP_NO_NAT_MAPPING. Replaces what was there. `to` on the caller's own stack: before 6.4 a map
 * takes no value that an argument of a function verified on its own points to. */
static __noinline __attribute__((unused)) int remember_translation(const struct ct_key *from, __u8 side, __u16 endpoint_id,
				    const struct nat_entry *to)
{
	struct nat_key key;

	nat_key_of(&key, from, side, endpoint_id);
	return bpf_map_update_elem(&axoneme_nat, &key, to, BPF_ANY) ? DROP_NO_NAT_MAPPING : 0;
}

/* As remember_translation(), but never takes the place of an entry that lives: for ports to be shared out. */
static __noinline __attribute__((unused)) int claim_translation(const struct ct_key *from, __u8 side, __u16 endpoint_id,
				 const struct nat_entry *to)
{
	struct nat_entry *known;
	struct nat_key key;

	nat_key_of(&key, from, side, endpoint_id);
	known = bpf_map_lookup_elem(&axoneme_nat, &key);
	if (known &&
	    (__s64)(to->last_seen_ns - known->last_seen_ns) > (__s64)translation_lifetime_ns(known, from->protocol))
		bpf_map_delete_elem(&axoneme_nat, &key);
	return bpf_map_update_elem(&axoneme_nat, &key, to, BPF_NOEXIST) ? DROP_NO_NAT_MAPPING : 0;
}

/* The entry that undoes `entry`, which was found for a packet with the endpoint and protocol of `tuple`. */
static __always_inline struct nat_entry *partner_of(const struct nat_entry *entry, const struct ct_key *tuple)
{
	struct nat_entry *partner;
	struct ct_key became, answer;

	copy_words(&became.source, &entry->source, 2 * sizeof(struct address) + 2 * sizeof(__be16));
	became.protocol = tuple->protocol;
	became.endpoint_id = tuple->endpoint_id;
	became.direction = NAT_FROM_EP;
	if (!answer_of(&answer, &became))
		return NULL;
	if (tuple->endpoint_id) {
		if (!(entry->flags & (NAT_HAIRPIN | NAT_RETURN)))
			answer.direction = NAT_TO_EP;
		return bpf_map_lookup_elem(&axoneme_nat, &answer);
	}
	answer.direction = NAT_FROM_NET;
	partner = bpf_map_lookup_elem(&axoneme_nat, &answer);
	if (partner)
		return partner;
	answer.direction = NAT_TO_NET;
	return bpf_map_lookup_elem(&axoneme_nat, &answer);
}

/* `protocol` and TCP flags of a packet that goes by an entry: the entry's state and flags afterwards. */
static __always_inline __u8 next_translation_state(const struct nat_entry *entry, const struct packet *packet)
{
	if (packet->key.protocol != IPPROTO_TCP)
		return entry->state == CT_CLOSING ? CT_CLOSING : CT_ESTABLISHED;
	if (packet->tcp_flags & TCP_RST)
		return CT_CLOSING;
	if (entry->state == CT_NEW && (entry->flags & NAT_RETURN || !(packet->tcp_flags & TCP_SYN)))
		return CT_ESTABLISHED;
	return entry->state;
}

__noinline int follow_translation(struct nat_entry *entry, const struct packet *packet, __u64 now)
{
	struct nat_entry *partner;
	__u8 state;

	if (!entry || !packet)
		return 0;
	state = next_translation_state(entry, packet);
	partner = partner_of(entry, &packet->key);
	if (packet->key.protocol == IPPROTO_TCP && packet->tcp_flags & TCP_FIN) {
		entry->flags |= NAT_FIN;
		if (partner && partner->flags & NAT_FIN)
			state = CT_CLOSING;
	}
	entry->state = state;
	entry->last_seen_ns = now;
	if (partner) {
		partner->state = state;
		partner->last_seen_ns = now;
	}
	return 0;
}

/* After a packet took a translation, before or after it is translated. Written only when something changes:
 * the line is shared by CPUs. */
static __always_inline void advance_translation(struct nat_entry *entry, const struct packet *packet, __u64 now)
{
	__u8 finishing = packet->key.protocol == IPPROTO_TCP ? packet->tcp_flags & (TCP_FIN | TCP_RST) : 0;

	if (finishing || next_translation_state(entry, packet) != entry->state ||
	    (__s64)(now - entry->last_seen_ns) > (__s64)NSEC_PER_SEC)
		follow_translation(entry, packet, now);
}

static __always_inline __u32 add_sums(__u32 one, __u32 other)
{
	one += other;
	return one + (one < other);
}

static __always_inline __u32 checksum_offset(__u8 protocol)
{
	if (protocol == IPPROTO_TCP)
		return TCP_CHECKSUM;
	return protocol == IPPROTO_UDP ? UDP_CHECKSUM : ICMP_CHECKSUM;
}

static __always_inline int has_pseudo_header(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMPV6;
}

/* Both addresses of an IP header at `offset` in the packet. `flags` of bpf_skb_store_bytes(). */
static __always_inline int store_addresses(struct __sk_buff *skb, __u32 offset, const struct address *ends,
					   __u32 ipv6, __u64 flags)
{
	__be32 words[2];

	if (ipv6)
		return bpf_skb_store_bytes(skb, offset + IPV6_SOURCE, ends, 2 * sizeof(*ends), flags);
	words[0] = ends[0].words[3];
	words[1] = ends[1].words[3];
	return bpf_skb_store_bytes(skb, offset + IPV4_SOURCE, words, sizeof(words), flags);
}

/*
 * `ends`: source and destination. A transport checksum covers them too. Where the device gave the sum of the
 * whole packet, the kernel takes every change of a pseudo header for one that the IPv4 header's own checksum
 * makes up for; for IPv6 BPF_F_RECOMPUTE_CSUM does.
 */
static __always_inline int rewrite_addresses(struct __sk_buff *skb, struct packet *packet, const struct address *ends)
{
	__u32 ipv6 = packet->flags & FLAG_IPV6;
	__u8 protocol = packet->key.protocol;
	__s64 change = bpf_csum_diff((__be32 *)&packet->key.source, 2 * sizeof(*ends), (__be32 *)ends, 2 * sizeof(*ends),
				     0);

	if (change < 0)
		return DROP_WRITE_ERROR;
	if (packet->l4_offset && has_pseudo_header(protocol) &&
	    bpf_l4_csum_replace(skb, packet->l4_offset + checksum_offset(protocol), 0, change,
				BPF_F_PSEUDO_HDR | (protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0)))
		return DROP_WRITE_ERROR;
	if (!ipv6 && bpf_l3_csum_replace(skb, ETH_HEADER + IPV4_CHECKSUM, 0, change, 0))
		return DROP_WRITE_ERROR;
	if (store_addresses(skb, ETH_HEADER, ends, ipv6, ipv6 ? BPF_F_RECOMPUTE_CSUM : 0))
		return DROP_WRITE_ERROR;
	copy_words(&packet->key.source, ends, 2 * sizeof(*ends));
	return 0;
}

static __always_inline int rewrite_icmp_id(struct __sk_buff *skb, struct packet *packet, __be16 id)
{
	__be16 before = packet->key.source_port_be;

	if (before == id || !icmp_has_id(packet->key.protocol, bpf_ntohs(packet->key.destination_port_be)))
		return 0;
	if (bpf_l4_csum_replace(skb, packet->l4_offset + ICMP_CHECKSUM, before, id, sizeof(id)) ||
	    bpf_skb_store_bytes(skb, packet->l4_offset + ICMP_ID, &id, sizeof(id), 0))
		return DROP_WRITE_ERROR;
	packet->key.source_port_be = id;
	return 0;
}

/* `before` and `after`: source and destination port in one word. */
static __always_inline int rewrite_ports(struct __sk_buff *skb, struct packet *packet, __be32 after)
{
	__be32 before = *(const packet_word *)&packet->key.source_port_be;
	__u8 protocol = packet->key.protocol;
	__u64 flags = sizeof(after) | (protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);

	if (before == after)
		return 0;
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return DROP_NAT_PROTOCOL; /* SCTP: the checksum of the whole packet would have to be made anew */
	if (packet->l4_offset &&
	    (bpf_l4_csum_replace(skb, packet->l4_offset + checksum_offset(protocol), before, after, flags) ||
	     bpf_skb_store_bytes(skb, packet->l4_offset, &after, sizeof(after), 0)))
		return DROP_WRITE_ERROR;
	*(packet_word *)&packet->key.source_port_be = after;
	return 0;
}

/*
 * Makes the packet what `to` says: addresses, ports or ICMP id, checksums; `packet->key` follows. Of a later
 * fragment only the addresses are there. Returns 0 or a drop reason; SCTP ports never change.
 */
__noinline int translate(struct __sk_buff *skb, struct packet *packet, const struct nat_entry *to)
{
	int reason;

	if (!packet || !to)
		return DROP_INVALID_PACKET;
	if (!is_icmp(packet->key.protocol))
		reason = rewrite_ports(skb, packet, *(const packet_word *)&to->source_port_be);
	else
		reason = packet->l4_offset ? rewrite_icmp_id(skb, packet, to->source_port_be) : 0;
	return reason ? reason : rewrite_addresses(skb, packet, &to->source);
}

/* Offset of the transport header of the packet that an ICMP error quotes; read_quote() found it whole. */
static __always_inline __u32 quoted_transport(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 offset = packet->l4_offset + ICMP_HEADER;
	__u8 first = 0;

	if (packet->flags & FLAG_IPV6)
		return offset + IPV6_HEADER;
	if (bpf_skb_load_bytes(skb, offset, &first, 1))
		return 0;
	return offset + (first & 0xf) * 4;
}

/* The quoted transport header. `change` of the quoted addresses. Returns 0 or a drop reason; what changed in all
 * is added to `*sum`. */
static __always_inline int rewrite_quoted_transport(struct __sk_buff *skb, __u32 offset, const struct ct_key *before,
						    const struct ct_key *after, __u32 change, __u32 *sum)
{
	__be32 old = *(const packet_word *)&before->source_port_be, new = *(const packet_word *)&after->source_port_be;
	__u32 own, at = offset, size = sizeof(new);
	__u8 protocol = before->protocol;
	__u16 checksum = 0;

	if (is_icmp(protocol)) {
		at += ICMP_ID;
		size = sizeof(__be16);
		old = before->source_port_be;
		new = after->source_port_be;
	}
	own = bpf_csum_diff(&old, sizeof(old), &new, sizeof(new), 0);
	if (old != new && bpf_skb_store_bytes(skb, at, &new, size, 0))
		return DROP_WRITE_ERROR;
	*sum = add_sums(*sum, own);
	/* TCP's checksum lies beyond the eight bytes that a quote must have, SCTP's covers the whole packet. */
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_SCTP)
		return 0;
	at = offset + checksum_offset(protocol);
	if (bpf_skb_load_bytes(skb, at, &checksum, sizeof(checksum)))
		return DROP_WRITE_ERROR;
	if (protocol == IPPROTO_UDP && !checksum)
		return 0;
	if (has_pseudo_header(protocol))
		own = add_sums(own, change);
	if (bpf_l4_csum_replace(skb, at, 0, own, protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0))
		return DROP_WRITE_ERROR;
	*sum = add_sums(*sum, ~own);
	return 0;
}

/* The quoted packet becomes `after`, and the error's checksum follows. */
static __always_inline int rewrite_quote(struct __sk_buff *skb, const struct packet *packet,
					 const struct ct_key *before, const struct ct_key *after)
{
	__u32 ip = packet->l4_offset + ICMP_HEADER, ipv6 = packet->flags & FLAG_IPV6, sum = 0, change;
	__u32 transport = quoted_transport(skb, packet);
	int reason;

	change = bpf_csum_diff((__be32 *)&before->source, 32, (__be32 *)&after->source, 32, 0);
	/* The quoted IPv4 header's own checksum makes up for its addresses. */
	if (ipv6)
		sum = change;
	else if (bpf_l3_csum_replace(skb, ip + IPV4_CHECKSUM, 0, change, 0))
		return DROP_WRITE_ERROR;
	if (!transport || store_addresses(skb, ip, &after->source, ipv6, 0))
		return DROP_WRITE_ERROR;
	reason = rewrite_quoted_transport(skb, transport, before, after, change, &sum);
	if (reason)
		return reason;
	return bpf_l4_csum_replace(skb, packet->l4_offset + ICMP_CHECKSUM, 0, sum, 0) ? DROP_WRITE_ERROR : 0;
}

/*
 * An ICMP error about a packet that was translated: the quote becomes what its sender sent, the error comes
 * from and goes to where an answer would. Returns 1, 0 for an error about something else, or a drop reason.
 */
__noinline int translate_error(struct __sk_buff *skb, struct packet *packet, __u8 side, __u16 endpoint_id, __u64 now)
{
	struct ct_key quote = {}, other = {};
	const struct nat_entry *to;
	struct address ends[2];
	int reason;

	if (!packet || !packet->l4_offset || !packet->icmp_error || !read_quote(skb, packet, &quote) ||
	    !same_words(&quote.source, &packet->key.destination) || !answer_of(&other, &quote))
		return 0;
	to = find_translation(&other, side, endpoint_id, now);
	if (!to)
		return 0;
	ends[0] = same_words(&packet->key.source, &quote.destination) ? to->source : packet->key.source;
	ends[1] = to->destination;
	other.source = to->destination;
	other.destination = to->source;
	other.source_port_be = is_icmp(quote.protocol) ? to->source_port_be : to->destination_port_be;
	other.destination_port_be = to->source_port_be;
	reason = rewrite_quote(skb, packet, &quote, &other);
	if (!reason)
		reason = rewrite_addresses(skb, packet, ends);
	return reason ? reason : 1;
}

#endif
