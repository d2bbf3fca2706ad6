// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What the programs of the node's devices share: how they read a packet, count and report it, and whose
 * identity travels with it. */
#ifndef AXONEME_NODEPATH_H
#define AXONEME_NODEPATH_H

#include <linux/pkt_cls.h>

#include "common.h"
#include "events.h"
#include "identity.h"
#include "nodemaps.h"

#define TC_NEXT TC_ACT_UNSPEC /* the packet passes; what follows on the hook runs */

#define IPV4_HOPS 8 /* offsets in headers */
#define IPV4_SUM 10
#define IPV6_HOPS 7
#define ANY_FAMILY4 96 /* bits of ::ffff:0.0.0.0/96, that is 0.0.0.0/0 */

static __always_inline int next(struct __sk_buff *skb, __u8 hook)
{
	count_verdict(hook, 0, skb->len);
	return TC_NEXT;
}

/* Bytes to a tuple of no endpoint. Returns 0, a drop reason, or PASS_UNJUDGED. */
static __always_inline int read_node_packet(struct __sk_buff *skb, struct packet *packet, __u8 hook)
{
	if (parse_common(skb, packet, HOST_ENDPOINT_ID, hook))
		return 0;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->key.direction = hook;
	return parse(skb, packet);
}

/* From prefixes and addresses; what it points to may change under way. */
static __always_inline const struct ipcache_entry *ipcache_prefix(const struct address *address)
{
	struct ipcache_key key = {.prefix_length = 128};

	copy_words(key.address, address, sizeof(*address));
	return bpf_map_lookup_elem(&axoneme_ipcache, &key);
}

/* The world's number of an address family: what the ipcache says for its shortest prefix. */
static __always_inline __u32 world_of(__u8 ipv6)
{
	struct ipcache_key key = {.prefix_length = ipv6 ? 0 : ANY_FAMILY4};
	const struct ipcache_entry *entry;

	if (!ipv6) {
		key.address[10] = 0xff;
		key.address[11] = 0xff;
	}
	entry = bpf_map_lookup_elem(&axoneme_ipcache, &key);
	if (entry && (entry->identity == IDENTITY_WORLD4 || entry->identity == IDENTITY_WORLD6))
		return entry->identity;
	return IDENTITY_WORLD;
}

static __always_inline int is_world(__u32 identity)
{
	return identity == IDENTITY_WORLD || identity == IDENTITY_WORLD4 || identity == IDENTITY_WORLD6 ||
	       identity >= IDENTITY_LOCAL_SCOPE;
}

/* What another node may be told of an identity: numbers of this node only mean nothing there, and this
 * host is a remote node to it. */
static __always_inline __u32 travelling(__u32 identity, __u8 ipv6)
{
	if (!identity || identity >= IDENTITY_LOCAL_SCOPE)
		return world_of(ipv6);
	return identity == IDENTITY_HOST ? IDENTITY_REMOTE_NODE : identity;
}

/* The identity that came with a packet, or 0. */
static __always_inline __u32 carried_identity(const struct __sk_buff *skb)
{
	return (skb->mark & MARK_KIND) == MARK_IDENTITY ? skb->mark & MARK_NUMBER : 0;
}

static __always_inline void carry_identity(struct __sk_buff *skb, __u32 identity)
{
	skb->mark = MARK_IDENTITY | (identity & MARK_NUMBER);
}

/* `point`: observation point of a trace, or 0 and a drop reason. `source`: identity, 0: the address's. */
__noinline int node_event(struct __sk_buff *skb, const struct packet *packet, __u8 point, __u8 reason,
			  __u32 source)
{
	struct report report = {};
	__u8 hook;

	if (!packet)
		return 0;
	hook = packet->key.direction;
	if (!source)
		source = cached_identity(&packet->key.source);
	report.time_ns = bpf_ktime_get_boot_ns();
	report.hook = hook;
	report.direction = hook;
	report.identity = hook == EGRESS ? source : cached_identity(&packet->key.destination);
	report.peer_identity = hook == EGRESS ? cached_identity(&packet->key.destination) : source;
	report.event_type = reason ? EVENT_DROP : EVENT_TRACE;
	report.verdict = reason ? VERDICT_DROPPED : VERDICT_FORWARDED;
	report.drop_reason = reason;
	report.trace_point = point;
	return emit(skb, packet, &report);
}

static __always_inline int node_drop(struct __sk_buff *skb, const struct packet *packet, __u8 reason,
				     __u32 source)
{
	count_verdict(packet->key.direction, reason, skb->len);
	node_event(skb, packet, 0, reason, source);
	return TC_ACT_SHOT;
}

/* Without conntrack of their own these programs take for worth a trace what begins or ends a connection;
 * the endpoints' programs report the rest. */
static __always_inline int begins_or_ends(const struct packet *packet)
{
	if (packet->key.protocol == IPPROTO_TCP)
		return packet->l4_offset && packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
	return packet->key.protocol == IPPROTO_ICMP || packet->key.protocol == IPPROTO_ICMPV6;
}

static __always_inline int has_tunnel(const struct ipcache_entry *entry)
{
	const __u32 *words = (const __u32 *)entry->tunnel_endpoint;

	return (words[0] | words[1] | words[2] | words[3]) != 0;
}

/* An address of a remote pod has its node's address; so has the pod network of that node. */
static __always_inline int find_tunnel(const struct address *destination, struct address *endpoint)
{
	struct address key = *destination;
	const struct ipcache_entry *entry = bpf_map_lookup_elem(&axoneme_ipexact, &key);

	if (!entry || !has_tunnel(entry))
		entry = ipcache_prefix(destination);
	if (!entry || !has_tunnel(entry))
		return 0;
	copy_words(endpoint, entry->tunnel_endpoint, sizeof(*endpoint));
	return 1;
}

/* One hop less, as a router does it that sends the packet on itself. Returns 0 or a drop reason. */
static __always_inline int spend_hop(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 offset = ETH_HEADER + (packet->flags & FLAG_IPV6 ? IPV6_HOPS : IPV4_HOPS);
	__u8 hops[2], before[2]; /* IPv4: with the protocol, a word of the checksum; IPv6: with the source's first byte */

	if (bpf_skb_load_bytes(skb, offset, before, sizeof(before)))
		return DROP_INVALID_PACKET;
	if (before[0] <= 1)
		return DROP_TTL_EXCEEDED;
	hops[0] = before[0] - 1;
	hops[1] = before[1];
	if (packet->flags & FLAG_IPV6)
		return bpf_skb_store_bytes(skb, offset, hops, sizeof(hops), BPF_F_RECOMPUTE_CSUM) ? DROP_WRITE_ERROR : 0;
	if (bpf_l3_csum_replace(skb, ETH_HEADER + IPV4_SUM, *(packet_half *)before, *(packet_half *)hops, 2) ||
	    bpf_skb_store_bytes(skb, offset, hops, sizeof(hops), 0))
		return DROP_WRITE_ERROR;
	return 0;
}

#endif
