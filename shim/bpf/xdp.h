// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Rewriting a plain packet at the driver: no skb, so no helper keeps the checksums. */
#ifndef AXONEME_XDP_H
#define AXONEME_XDP_H

#include "nat.h"

#define TUPLE_SIZE (2 * sizeof(struct address) + 2 * sizeof(__be16))

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

/* RFC 1624: the checksum of what had `checksum` and changed from `before` to `after`. IPv4 addresses are mapped
 * in both, and what is common to both takes itself out. */
static __always_inline __u16 changed_checksum(__u16 checksum, const void *before, const void *after, __u32 size)
{
	return fold((__u32)bpf_csum_diff((__be32 *)before, size, (__be32 *)after, size, (__u16)~checksum));
}

/* Ports, and the checksum over ports and addresses. Returns 0, or -1 for a packet that is left to the tc
 * programs. `transport` has its header before data_end. */
static __always_inline int rewrite_transport(void *transport, const void *data_end, const struct ct_key *key,
					     const struct nat_entry *to)
{
	__u16 *checksum;

	if (key->protocol == IPPROTO_TCP) {
		if (transport + TCP_CHECKSUM + sizeof(*checksum) > data_end)
			return -1;
		checksum = transport + TCP_CHECKSUM;
		*checksum = changed_checksum(*checksum, &key->source, &to->source, TUPLE_SIZE);
	} else {
		if (transport + UDP_HEADER > data_end)
			return -1;
		checksum = transport + UDP_CHECKSUM;
		if (*checksum) {
			*checksum = changed_checksum(*checksum, &key->source, &to->source, TUPLE_SIZE);
			if (!*checksum)
				*checksum = 0xffff;
		}
	}
	*(packet_word *)transport = *(const packet_word *)&to->source_port_be;
	return 0;
}

static __always_inline int rewrite_plain4(void *data, const void *data_end, const struct ct_key *key,
					  const struct nat_entry *to)
{
	struct iphdr *ip = data + ETH_HEADER;
	__u32 sum;

	if (data + L4_PLAIN4 + UDP_HEADER > data_end ||
	    rewrite_transport(data + L4_PLAIN4, data_end, key, to))
		return -1;
	sum = (__u16)~changed_checksum(ip->check, &key->source, &to->source, 2 * sizeof(struct address));
	ip->ttl--;
	ip->check = fold(sum + (__u16)~bpf_htons(0x0100)); /* the time to live is the upper byte of its half word */
	ip->saddr = to->source.words[3];
	ip->daddr = to->destination.words[3];
	return 0;
}

static __always_inline int rewrite_plain6(void *data, const void *data_end, const struct ct_key *key,
					  const struct nat_entry *to)
{
	struct ipv6hdr *ip = data + ETH_HEADER;

	if (data + L4_PLAIN6 + UDP_HEADER > data_end ||
	    rewrite_transport(data + L4_PLAIN6, data_end, key, to))
		return -1;
	ip->hop_limit--;
	copy_words(&ip->saddr, &to->source, 2 * sizeof(struct address));
	return 0;
}

#endif
