// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The common packet in one look: IPv4 without options or IPv6 without extension headers, no fragment, TCP
 * or UDP, headers in the linear part. It takes a packet only if parse() would find the same; everything
 * else, malformed packets too, is left to parse(). tests/bpf/test_short_way.py compares the two.
 */
#ifndef AXONEME_COMMON_H
#define AXONEME_COMMON_H

#include "parse.h"

#define IPV4_PLAIN 0x45 /* version, header of 20 bytes */
#define TCP_HEADER 20
#define UDP_HEADER 8

/* As one word: the hash of the key reads it as one, and would wait for single bytes to be stored. */
static __always_inline void set_key_end(struct ct_key *key, __u8 protocol, __u8 direction,
					__u16 endpoint_id)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	*(packet_word *)&key->protocol = protocol | (__u32)direction << 8 | (__u32)endpoint_id << 16;
#else
	*(packet_word *)&key->protocol = (__u32)protocol << 24 | (__u32)direction << 16 | endpoint_id;
#endif
}

static __always_inline int take_tcp(const void *tcp, const void *data_end, struct packet *packet,
				    __u32 length)
{
	__u32 header;

	if (tcp + TCP_HEADER > data_end)
		return 0;
	header = (((const struct transport *)tcp)->data_offset >> 4) * 4;
	packet->tcp_flags = ((const struct transport *)tcp)->flags;
	return header >= TCP_HEADER && header <= length;
}

static __always_inline int take_udp(const void *udp, struct packet *packet, __u32 length)
{
	__u32 claimed = bpf_ntohs(((const __be16 *)udp)[2]);

	packet->tcp_flags = 0;
	return claimed >= UDP_HEADER && claimed <= length;
}

/* `l4` has UDP_HEADER bytes before data_end. */
static __always_inline int take_transport(const void *l4, const void *data_end, struct packet *packet,
					  __u8 protocol, __u32 length)
{
	*(packet_word *)&packet->key.source_port_be = *(const packet_word *)l4;
	if (protocol == IPPROTO_TCP)
		return take_tcp(l4, data_end, packet, length);
	return protocol == IPPROTO_UDP && take_udp(l4, packet, length);
}

static __always_inline int take_ipv4(const void *data, const void *data_end, struct packet *packet,
				     __u16 endpoint_id, __u8 hook, __u32 size)
{
	const struct iphdr *ip = data + ETH_HEADER;
	__u32 total;

	if (data + L4_PLAIN4 + UDP_HEADER > data_end)
		return 0;
	total = bpf_ntohs(ip->tot_len);
	if (*(const __u8 *)ip != IPV4_PLAIN || total < IPV4_HEADER || total > size - ETH_HEADER ||
	    ip->frag_off & bpf_htons(FRAGMENT_MORE4 | FRAGMENT_OFFSET4))
		return 0;
	map_ipv4(&packet->key.source, ip->saddr);
	map_ipv4(&packet->key.destination, ip->daddr);
	set_key_end(&packet->key, ip->protocol, hook, endpoint_id);
	packet->l4_offset = L4_PLAIN4;
	packet->end = ETH_HEADER + total;
	packet->flags = 0;
	return take_transport(data + L4_PLAIN4, data_end, packet, ip->protocol, total - IPV4_HEADER);
}

static __always_inline int take_ipv6(const void *data, const void *data_end, struct packet *packet,
				     __u16 endpoint_id, __u8 hook, __u32 size)
{
	const struct ipv6hdr *ip = data + ETH_HEADER;
	__u32 length;

	if (data + L4_PLAIN6 + UDP_HEADER > data_end)
		return 0;
	length = bpf_ntohs(ip->payload_len);
	if (*(const __u8 *)ip >> 4 != 6 || length > size - L4_PLAIN6)
		return 0;
	copy_words(&packet->key.source, &ip->saddr, sizeof(struct address));
	copy_words(&packet->key.destination, &ip->daddr, sizeof(struct address));
	if (is_mapped(&packet->key.source) || is_mapped(&packet->key.destination))
		return 0;
	set_key_end(&packet->key, ip->nexthdr, hook, endpoint_id);
	packet->l4_offset = L4_PLAIN6;
	packet->end = L4_PLAIN6 + length;
	packet->flags = FLAG_IPV6;
	return take_transport(data + L4_PLAIN6, data_end, packet, ip->nexthdr, length);
}

/* Returns 1 when the packet was a common one. Otherwise what it left in `packet` means nothing. */
static __always_inline int parse_common(struct __sk_buff *skb, struct packet *packet, __u16 endpoint_id,
					__u8 hook)
{
	const void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;
	__u32 protocol = skb->protocol;

	if (!short_way || skb->vlan_present)
		return 0;
	packet->fragment_id = 0;
	packet->fragment_protocol = 0;
	packet->first_fragment = 0;
	packet->icmp_error = 0;
	__builtin_memset(packet->pad, 0, sizeof(packet->pad));
	if (protocol == bpf_htons(ETH_P_IP))
		return take_ipv4(data, data_end, packet, endpoint_id, hook, skb->len);
	return protocol == bpf_htons(ETH_P_IPV6) &&
	       take_ipv6(data, data_end, packet, endpoint_id, hook, skb->len);
}

#endif
