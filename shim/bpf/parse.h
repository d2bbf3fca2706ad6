// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * From bytes to a tuple. Headers at fixed offsets are read from the packet, others with
 * bpf_skb_load_bytes: it works on data that is not linear, and offsets need no proof of bounds, which
 * differ between verifiers. Everything that does not fit its own length fields is malformed: returns a
 * drop reason, 0, or PASS_UNJUDGED.
 *
 * Functions that are not static are verified on their own, once: otherwise the paths of the parser
 * multiply with those of everything after it. The verifier wants their pointers checked.
 */
#ifndef AXONEME_PARSE_H
#define AXONEME_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "words.h"

#define ICMP4_ECHO_REPLY 0
#define ICMP4_UNREACHABLE 3
#define ICMP4_ECHO 8
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER 12
#define ICMP4_TIMESTAMP 13
#define ICMP4_TIMESTAMP_REPLY 14
#define ICMP6_UNREACHABLE 1
#define ICMP6_PARAMETER 4
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOUR_ADVERT 136
#define ND_REDIRECT 137
#define MLD_QUERY 130
#define MLD_DONE 132
#define MLD_REPORT2 143
#define ND_HOP_LIMIT 255

#define EXT_HOP_BY_HOP 0
#define EXT_ROUTING 43
#define EXT_FRAGMENT 44
#define EXT_AUTHENTICATION 51
#define EXT_DESTINATION 60

#define FRAGMENT_MORE4 0x2000
#define FRAGMENT_OFFSET4 0x1fff
#define FRAGMENT_MORE6 0x0001
#define FRAGMENT_OFFSET6 0xfff8

struct transport {
	__be16 source_be;
	__be16 destination_be;
	__be32 words[2];  /* TCP: sequence, acknowledgement; UDP: length and checksum in the first */
	__u8 data_offset; /* TCP */
	__u8 flags;
	__u8 pad[2];
};

struct icmp_head {
	__u8 kind;
	__u8 code;
	__u16 checksum;
	__be16 id;
	__u16 sequence;
};

struct extension {
	__u8 next;
	__u8 length;
	__u8 kind;
	__u8 segments_left;
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset_be;
	__be32 id;
};

/* Headers nearly always lie in the linear part at offsets known here: then without a call. `offset` is
 * a constant. */
static __always_inline int load_fixed(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;

	if (data + offset + size > data_end)
		return bpf_skb_load_bytes(skb, offset, to, size);
	copy_words(to, data + offset, size);
	return 0;
}

#define L4_PLAIN4 (ETH_HEADER + IPV4_HEADER) /* without options */
#define L4_PLAIN6 (ETH_HEADER + IPV6_HEADER) /* without extension headers */

static __always_inline int load_transport(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	if (offset == L4_PLAIN4)
		return load_fixed(skb, L4_PLAIN4, to, size);
	if (offset == L4_PLAIN6)
		return load_fixed(skb, L4_PLAIN6, to, size);
	return bpf_skb_load_bytes(skb, offset, to, size);
}

static __always_inline void map_ipv4(struct address *address, __be32 word)
{
	address->halves[0] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = word;
}

/* Mapped addresses stand for IPv4 in our maps; on the wire they would borrow an IPv4 peer's identity
 * (RFC 4942, 2.2). */
static __always_inline int is_mapped(const struct address *address)
{
	return (address->words[0] | address->words[1] | (address->words[2] ^ bpf_htonl(0xffff))) == 0;
}

/* By words, as they were stored: a wider load would wait for its parts. */
static __always_inline int same_words(const struct address *one, const struct address *other)
{
	return ((one->words[0] ^ other->words[0]) | (one->words[1] ^ other->words[1]) |
		(one->words[2] ^ other->words[2]) | (one->words[3] ^ other->words[3])) == 0;
}

static __always_inline int is_zero(const struct address *address)
{
	return (address->words[0] | address->words[1] | address->words[2] | address->words[3]) == 0;
}

static __always_inline void copy_address(struct address *to, const void *from)
{
	__builtin_memcpy(to, from, sizeof(*to));
}

static __always_inline int icmp_has_id(__u8 protocol, __u8 kind)
{
	if (protocol == IPPROTO_ICMPV6)
		return kind == ICMP6_ECHO || kind == ICMP6_ECHO_REPLY;
	return kind == ICMP4_ECHO || kind == ICMP4_ECHO_REPLY || kind == ICMP4_TIMESTAMP ||
	       kind == ICMP4_TIMESTAMP_REPLY;
}

/* Redirects are no errors here: nobody may reroute an endpoint's traffic by quoting it. */
static __always_inline int icmp_is_error(__u8 protocol, __u8 kind)
{
	if (protocol == IPPROTO_ICMPV6)
		return kind >= ICMP6_UNREACHABLE && kind <= ICMP6_PARAMETER;
	return kind == ICMP4_UNREACHABLE || kind == ICMP4_TIME_EXCEEDED || kind == ICMP4_PARAMETER;
}

static __always_inline int read_tcp(struct __sk_buff *skb, struct packet *packet, __u32 length)
{
	struct transport tcp = {};
	__u32 header;

	if (length < 20 || load_transport(skb, packet->l4_offset, &tcp, 14))
		return DROP_TRUNCATED_HEADER;
	header = (tcp.data_offset >> 4) * 4;
	if (header < 20 || (header > length && !packet->first_fragment))
		return DROP_TRUNCATED_HEADER;
	packet->key.source_port_be = tcp.source_be;
	packet->key.destination_port_be = tcp.destination_be;
	packet->tcp_flags = tcp.flags;
	return 0;
}

static __always_inline int read_udp(struct __sk_buff *skb, struct packet *packet, __u32 length)
{
	struct transport udp = {};
	__u32 claimed;

	if (length < 8 || load_transport(skb, packet->l4_offset, &udp, 8))
		return DROP_TRUNCATED_HEADER;
	claimed = bpf_ntohl(udp.words[0]) >> 16;
	/* A segmentation super-packet and a first fragment may claim another length than they have. */
	if (claimed < 8 || (claimed > length && !packet->first_fragment && !skb->gso_size))
		return DROP_TRUNCATED_HEADER;
	packet->key.source_port_be = udp.source_be;
	packet->key.destination_port_be = udp.destination_be;
	return 0;
}

static __always_inline int read_sctp(struct __sk_buff *skb, struct packet *packet, __u32 length)
{
	__be16 ports[2] = {};

	if (length < 12 || load_transport(skb, packet->l4_offset, ports, 4))
		return DROP_TRUNCATED_HEADER;
	packet->key.source_port_be = ports[0];
	packet->key.destination_port_be = ports[1];
	return 0;
}

static __always_inline int read_icmp(struct __sk_buff *skb, struct packet *packet, __u32 length)
{
	struct icmp_head icmp = {};
	__u8 protocol = packet->key.protocol;

	if (length < 8 || load_transport(skb, packet->l4_offset, &icmp, 8))
		return DROP_TRUNCATED_HEADER;
	packet->key.source_port_be = icmp_has_id(protocol, icmp.kind) ? icmp.id : 0;
	packet->key.destination_port_be = bpf_htons(icmp.kind);
	packet->tcp_flags = icmp.code;
	packet->icmp_error = icmp_is_error(protocol, icmp.kind);
	return 0;
}

static __always_inline int read_transport(struct __sk_buff *skb, struct packet *packet)
{
	__u32 length = packet->end - packet->l4_offset;
	__u8 icmp = packet->flags & FLAG_IPV6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;

	if (packet->key.protocol == IPPROTO_TCP)
		return read_tcp(skb, packet, length);
	if (packet->key.protocol == IPPROTO_UDP)
		return read_udp(skb, packet, length);
	if (packet->key.protocol == icmp)
		return read_icmp(skb, packet, length);
	if (packet->key.protocol == IPPROTO_SCTP)
		return read_sctp(skb, packet, length);
	return DROP_UNKNOWN_L4_PROTOCOL;
}

static __always_inline void fragment_key_of(const struct packet *packet, struct fragment_key *key)
{
	copy_address(&key->source, &packet->key.source);
	copy_address(&key->destination, &packet->key.destination);
	key->fragment_id = packet->fragment_id;
	key->protocol = packet->fragment_protocol;
	key->direction = packet->key.direction;
	key->endpoint_id = packet->key.endpoint_id;
}

/* The first fragment is remembered before it is judged: what follows it then gets the same verdict
 * from policy. */
static __always_inline void remember_fragment(const struct packet *packet, __u64 now)
{
	struct fragment_entry entry = {
		.last_seen_ns = now,
		.source_port_be = packet->key.source_port_be,
		.destination_port_be = packet->key.destination_port_be,
		.protocol = packet->key.protocol,
	};
	struct fragment_key key = {};

	fragment_key_of(packet, &key);
	bpf_map_update_elem(&axoneme_frag, &key, &entry, BPF_ANY);
}

__noinline int follow_fragment(struct packet *packet)
{
	struct fragment_key key = {};
	struct fragment_entry *entry;

	if (!packet)
		return DROP_INVALID_PACKET;
	fragment_key_of(packet, &key);
	entry = bpf_map_lookup_elem(&axoneme_frag, &key);
	if (!entry || bpf_ktime_get_coarse_ns() - entry->last_seen_ns > fragment_seconds * NSEC_PER_SEC)
		return DROP_FIRST_FRAGMENT_NOT_FOUND;
	packet->key.source_port_be = entry->source_port_be;
	packet->key.destination_port_be = entry->destination_port_be;
	packet->key.protocol = entry->protocol;
	return 0;
}

/* `offset` in bytes. A fragment that would end past 64 KiB can only do harm. */
static __always_inline int read_fragment(struct packet *packet, __u32 offset, __u32 more, __be32 id,
					 __u32 payload)
{
	packet->flags |= FLAG_FRAGMENT;
	packet->fragment_id = id;
	packet->fragment_protocol = packet->key.protocol;
	packet->first_fragment = offset == 0;
	if (offset + payload > 65535 || (more && payload % 8) || payload == 0)
		return DROP_INVALID_PACKET;
	return 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip = {};
	__u32 header, total, fragment, available = skb->len - ETH_HEADER;
	int reason;

	if (skb->len < ETH_HEADER + IPV4_HEADER || load_fixed(skb, ETH_HEADER, &ip, IPV4_HEADER))
		return DROP_INVALID_PACKET;
	map_ipv4(&packet->key.source, ip.saddr);
	map_ipv4(&packet->key.destination, ip.daddr);
	packet->key.protocol = ip.protocol;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (total == 0 && available > 65535)
		total = available; /* BIG TCP */
	if (ip.version != 4 || header < IPV4_HEADER || total < header || total > available)
		return DROP_INVALID_PACKET;
	packet->l4_offset = ETH_HEADER + header;
	packet->end = ETH_HEADER + total;
	fragment = bpf_ntohs(ip.frag_off);
	if (fragment & (FRAGMENT_MORE4 | FRAGMENT_OFFSET4)) {
		__u32 offset = (fragment & FRAGMENT_OFFSET4) * 8;

		reason = read_fragment(packet, offset, fragment & FRAGMENT_MORE4, ip.id, total - header);
		if (reason)
			return reason;
		if (offset) {
			packet->l4_offset = 0;
			return follow_fragment(packet);
		}
	}
	return read_transport(skb, packet);
}

/* Walks the extension headers: leaves the transport protocol and its offset, l4_offset 0 for a later
 * fragment. */
__noinline int skip_extensions(struct __sk_buff *skb, struct packet *packet, __u8 next)
{
	__u32 offset = ETH_HEADER + IPV6_HEADER;

	if (!packet)
		return DROP_INVALID_PACKET;
	for (int i = 0; i <= IPV6_MAX_EXTENSIONS; i++) {
		struct extension extension = {};

		packet->key.protocol = next;
		packet->l4_offset = offset;
		if (next != EXT_HOP_BY_HOP && next != EXT_ROUTING && next != EXT_FRAGMENT &&
		    next != EXT_AUTHENTICATION && next != EXT_DESTINATION)
			return 0;
		if (offset + 8 > packet->end || bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return DROP_INVALID_EXTENSION_HEADER;
		if (next == EXT_FRAGMENT) {
			struct fragment_header fragment = {};
			__u32 word, start;
			int reason;

			if (packet->flags & FLAG_FRAGMENT ||
			    bpf_skb_load_bytes(skb, offset, &fragment, sizeof(fragment)))
				return DROP_INVALID_EXTENSION_HEADER;
			word = bpf_ntohs(fragment.offset_be);
			start = word & FRAGMENT_OFFSET6;
			next = fragment.next;
			offset += 8;
			if (!(word & (FRAGMENT_OFFSET6 | FRAGMENT_MORE6)))
				continue; /* an atomic fragment is a whole packet (RFC 6946) */
			packet->key.protocol = next;
			reason = read_fragment(packet, start, word & FRAGMENT_MORE6, fragment.id,
					       packet->end - offset);
			if (reason)
				return reason;
			if (start) {
				packet->l4_offset = 0;
				return 0;
			}
			continue;
		}
		/* A routing header with segments left leads elsewhere than the address that is judged. */
		if (next == EXT_ROUTING && extension.segments_left)
			return DROP_INVALID_EXTENSION_HEADER;
		offset += next == EXT_AUTHENTICATION ? (extension.length + 2) * 4 : (extension.length + 1) * 8;
		next = extension.next;
		if (offset > packet->end)
			return DROP_INVALID_EXTENSION_HEADER;
	}
	return DROP_INVALID_EXTENSION_HEADER;
}

/* RFC 2710, RFC 3810: multicast listener discovery has hop limit 1 and a destination of this link, so it goes nowhere
 * else; every interface sends it unasked, from an address that no endpoint owns. */
static __always_inline int is_listener_discovery(const struct packet *packet, __u8 hop_limit, __u8 kind)
{
	const __u8 *to = packet->key.destination.bytes;

	return hop_limit == 1 && to[0] == 0xff && to[1] == 0x02 && !packet->tcp_flags &&
	       !(packet->flags & FLAG_FRAGMENT) && ((kind >= MLD_QUERY && kind <= MLD_DONE) || kind == MLD_REPORT2);
}

/* RFC 4861: neighbour discovery is valid with hop limit 255 only, i.e. from this link. An endpoint is
 * no router. */
static __always_inline int judge_discovery(const struct packet *packet, __u8 hop_limit)
{
	__u8 kind = bpf_ntohs(packet->key.destination_port_be);

	if (packet->key.protocol != IPPROTO_ICMPV6)
		return 0;
	if (is_listener_discovery(packet, hop_limit, kind))
		return PASS_UNJUDGED;
	if (kind < ND_ROUTER_SOLICIT || kind > ND_REDIRECT)
		return 0;
	if (hop_limit != ND_HOP_LIMIT || kind > ND_NEIGHBOUR_ADVERT || packet->tcp_flags ||
	    packet->flags & FLAG_FRAGMENT)
		return DROP_FORBIDDEN_ICMPV6_MESSAGE;
	if (kind == ND_ROUTER_ADVERT && packet->key.direction == EGRESS)
		return DROP_FORBIDDEN_ICMPV6_MESSAGE;
	return PASS_UNJUDGED;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	__u32 total, available = skb->len - ETH_HEADER;
	struct ipv6hdr ip = {};
	int reason;

	packet->flags |= FLAG_IPV6;
	if (skb->len < ETH_HEADER + IPV6_HEADER || load_fixed(skb, ETH_HEADER, &ip, IPV6_HEADER))
		return DROP_INVALID_PACKET;
	copy_address(&packet->key.source, &ip.saddr);
	copy_address(&packet->key.destination, &ip.daddr);
	if (is_mapped(&packet->key.source) || is_mapped(&packet->key.destination))
		return DROP_INVALID_PACKET;
	total = IPV6_HEADER + bpf_ntohs(ip.payload_len);
	if (total == IPV6_HEADER && available > 65535)
		total = available; /* BIG TCP */
	if (ip.version != 6 || total > available)
		return DROP_INVALID_PACKET;
	packet->end = ETH_HEADER + total;
	reason = skip_extensions(skb, packet, ip.nexthdr);
	if (reason)
		return reason;
	if (!packet->l4_offset)
		return follow_fragment(packet);
	reason = read_transport(skb, packet);
	return reason ? reason : judge_discovery(packet, ip.hop_limit);
}

__noinline int parse(struct __sk_buff *skb, struct packet *packet)
{
	if (!packet)
		return DROP_INVALID_PACKET;
	if (skb->vlan_present)
		return DROP_VLAN_FILTERED;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, packet);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, packet);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return PASS_UNJUDGED;
	return bpf_ntohs(skb->protocol) < ETH_P_802_3_MIN ? DROP_UNSUPPORTED_L2_PROTOCOL :
							    DROP_UNSUPPORTED_L3_PROTOCOL;
}

#endif
