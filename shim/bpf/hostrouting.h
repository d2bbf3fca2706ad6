// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The short way out of an endpoint, past the node's stack (NODE_HOST_ROUTING).
 *
 *   to an endpoint of this node   the receiver's ingress policy runs here, then bpf_redirect_peer
 *   to another node               the kernel's routes lead out of the uplink: bpf_redirect_neigh
 *   anything else                 the stack: local addresses, the tunnel, a hop limit that is used up, packets
 *                                 that are too large; it knows what to answer
 */
#ifndef AXONEME_HOSTROUTING_H
#define AXONEME_HOSTROUTING_H

#include "judge.h"
#include "nodemaps.h"

#define IPV4_TTL 8 /* offsets in headers; the protocol follows the TTL */
#define IPV4_HEADER_CHECKSUM 10
#define IPV6_HOP_LIMIT 7
#define FAMILY_INET 2
#define FAMILY_INET6 10

static __always_inline __u8 hops_left(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 hops = 0;

	bpf_skb_load_bytes(skb, ETH_HEADER + (packet->flags & FLAG_IPV6 ? IPV6_HOP_LIMIT : IPV4_TTL), &hops, 1);
	return hops;
}

/* One hop less. IPv4's header checksum makes up for the change, IPv6 has none. Returns 0 when done. */
static __always_inline int use_hop(struct __sk_buff *skb, const struct packet *packet, __u8 hops)
{
	__be16 before, after;

	if (packet->flags & FLAG_IPV6) {
		hops--;
		return bpf_skb_store_bytes(skb, ETH_HEADER + IPV6_HOP_LIMIT, &hops, 1, BPF_F_RECOMPUTE_CSUM);
	}
	before = bpf_htons(hops << 8);
	after = bpf_htons((hops - 1) << 8);
	if (bpf_l3_csum_replace(skb, ETH_HEADER + IPV4_HEADER_CHECKSUM, before, after, sizeof(after)))
		return -1;
	hops--;
	return bpf_skb_store_bytes(skb, ETH_HEADER + IPV4_TTL, &hops, 1, 0);
}

/* Into the receiver's namespace, as if it had come over its interface. Its policy has let it pass. */
__noinline int hand_over(struct __sk_buff *skb, const struct packet *packet, const struct local_entry *local)
{
	__u8 macs[12];

	if (!packet || !local)
		return TC_ACT_SHOT;
	copy_mac(macs, local->mac);
	copy_mac(macs + 6, local->host_mac);
	if (use_hop(skb, packet, hops_left(skb, packet)) || bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(local->ifindex, 0);
}

/* Out of the uplink, if that is where the kernel's routes lead. */
__noinline int send_away(struct __sk_buff *skb, const struct packet *packet, __u32 uplink_ifindex)
{
	struct bpf_fib_lookup route = {};
	__u8 hops;
	long found;

	if (!packet || !uplink_ifindex)
		return GOES_ON;
	hops = hops_left(skb, packet);
	if (hops <= 1)
		return GOES_ON;
	route.ifindex = skb->ifindex;
	route.l4_protocol = packet->key.protocol;
	if (packet->flags & FLAG_IPV6) {
		route.family = FAMILY_INET6;
		copy_words(route.ipv6_src, &packet->key.source, sizeof(struct address));
		copy_words(route.ipv6_dst, &packet->key.destination, sizeof(struct address));
	} else {
		route.family = FAMILY_INET;
		route.ipv4_src = packet->key.source.words[3];
		route.ipv4_dst = packet->key.destination.words[3];
	}
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if ((found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH) ||
	    route.ifindex != uplink_ifindex || use_hop(skb, packet, hops))
		return GOES_ON;
	return bpf_redirect_neigh(uplink_ifindex, NULL, 0, 0);
}

#endif
