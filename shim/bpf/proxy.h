// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The way to the node's DNS proxy and back.
 *
 *   give_to_proxy()      from the endpoint, a connection that policy redirects: TCP to its own socket of the proxy
 *                        or else to the listener, UDP to its socket; no socket, no way
 *   answers_proxy()      what a server answers to the proxy, which asks with the endpoint's address and port, must
 *                        not go to the endpoint. On every way in, before the stack finds a socket and forwards:
 *                        it drops what it would forward and has a socket
 *   is_proxys_answer()   the same where the connection is known, at the endpoint's interface
 *   turn_to_proxy()      ... for answers of the node's own processes, which no other hook sees
 *
 * MARK_TO_PROXY has a packet delivered here, whatever its destination (table 2904, shim/privileged/proxyroutes.py).
 * All sockets of the proxy have MARK_FROM_PROXY: another process that has its port gets nothing, and what the proxy
 * sends is never taken for an answer to it. For this a kernel needs bpf_sk_assign (Linux 5.7).
 */
#ifndef AXONEME_PROXY_H
#define AXONEME_PROXY_H

#include <linux/pkt_cls.h>

#include "ct.h"
#include "nodemaps.h"

#define PROXIED_TCP 1024 /* words of UDP before those of TCP */
#define PROXIED_WORDS 2048
#define LOOPBACK_IFINDEX 1
#define LOOPBACK4 0x7f000001

/* A bit for each protocol and port to which any endpoint is redirected. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROXIED_WORDS);
	__type(key, __u32); /* (TCP: PROXIED_TCP) + port / 64 */
	__type(value, __u64);
} axoneme_proxied SEC(".maps");

static __always_inline int is_proxied_port(__u8 protocol, __u32 port)
{
	__u32 index = (protocol == IPPROTO_TCP ? PROXIED_TCP : 0) + (port >> 6);
	const __u64 *word;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	word = bpf_map_lookup_elem(&axoneme_proxied, &index);
	return word && *word >> (port & 63) & 1;
}

/* Whether a packet for an endpoint of this node answers what the endpoint asked, and the proxy for it. */
__noinline int answers_redirected(const struct packet *packet, __u64 now)
{
	const struct local_entry *local;
	const struct ct_entry *entry;
	struct ct_key asked;

	if (!packet || !is_proxied_port(packet->key.protocol, bpf_ntohs(packet->key.source_port_be)))
		return 0;
	local = local_endpoint(&packet->key.destination);
	if (!local)
		return 0;
	asked.source = packet->key.destination;
	asked.destination = packet->key.source;
	asked.source_port_be = packet->key.destination_port_be;
	asked.destination_port_be = packet->key.source_port_be;
	asked.protocol = packet->key.protocol;
	asked.direction = EGRESS;
	asked.endpoint_id = local->endpoint_id;
	entry = find_entry(&asked, now);
	return entry && entry->proxy_port_be;
}

static __always_inline int answers_proxy(const struct node_config *node, const struct packet *packet, __u64 now)
{
	return node && node->flags & NODE_PROXY && answers_redirected(packet, now);
}

static __always_inline int is_proxys_answer(const struct connection *connection)
{
	return connection->relation == RELATION_REPLY && connection->entry && connection->entry->proxy_port_be;
}

static __always_inline int is_of_proxy(const struct bpf_sock *socket)
{
	return (socket->mark & MARK_KIND) == MARK_FROM_PROXY;
}

/* As the kernel's look-ups want it. Returns its size. */
static __always_inline __u32 tuple_of(struct bpf_sock_tuple *tuple, const struct packet *packet)
{
	if (packet->flags & FLAG_IPV6) {
		copy_words(tuple->ipv6.saddr, &packet->key.source, sizeof(struct address));
		copy_words(tuple->ipv6.daddr, &packet->key.destination, sizeof(struct address));
		tuple->ipv6.sport = packet->key.source_port_be;
		tuple->ipv6.dport = packet->key.destination_port_be;
		return sizeof(tuple->ipv6);
	}
	tuple->ipv4.saddr = packet->key.source.words[3];
	tuple->ipv4.daddr = packet->key.destination.words[3];
	tuple->ipv4.sport = packet->key.source_port_be;
	tuple->ipv4.dport = packet->key.destination_port_be;
	return sizeof(tuple->ipv4);
}

/* The same packet, sent to the proxy's own address and port. */
static __always_inline void aim_at_listener(struct bpf_sock_tuple *tuple, const struct packet *packet, __be16 port_be)
{
	if (packet->flags & FLAG_IPV6) {
		tuple->ipv6.daddr[0] = tuple->ipv6.daddr[1] = tuple->ipv6.daddr[2] = 0;
		tuple->ipv6.daddr[3] = bpf_htonl(1);
		tuple->ipv6.dport = port_be;
		return;
	}
	tuple->ipv4.daddr = bpf_htonl(LOOPBACK4);
	tuple->ipv4.dport = port_be;
}

/* A listener of this tuple may be anybody's; so may a connection that policy redirects only since a moment ago.
 * Who opens anew goes to the proxy's listener: behind an old connection (TIME_WAIT) another listener may be. */
static __always_inline int is_connection_of_proxy(struct bpf_sock *found, const struct packet *packet)
{
	struct bpf_sock *whole;

	if (found->state == BPF_TCP_TIME_WAIT)
		return (packet->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
	whole = bpf_sk_fullsock(found);
	return !whole || is_of_proxy(whole); /* a handshake has no whole socket yet, nor a mark */
}

/* Returns 1 when the packet has its socket. */
static __always_inline int find_own_socket(struct __sk_buff *skb, const struct packet *packet,
					   struct bpf_sock_tuple *tuple, __u32 size)
{
	struct bpf_sock *found = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	int done = 0;

	if (!found)
		return 0;
	if (is_connection_of_proxy(found, packet))
		done = !bpf_sk_assign(skb, found, 0);
	bpf_sk_release(found);
	return done;
}

static __always_inline int assign_if_proxys(struct __sk_buff *skb, struct bpf_sock *found)
{
	int done = 0;

	if (is_of_proxy(found))
		done = !bpf_sk_assign(skb, found, 0);
	bpf_sk_release(found);
	return done;
}

static __always_inline int find_listener(struct __sk_buff *skb, __u8 protocol, struct bpf_sock_tuple *tuple,
					 __u32 size)
{
	struct bpf_sock *found;

	if (protocol == IPPROTO_TCP)
		found = bpf_sk_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	return found ? assign_if_proxys(skb, found) : 0;
}

/* The port that policy gave a connection, 0: none any more. Asked for anew: whoever judged has no room for it. */
static __always_inline __be16 proxy_port_of(const struct ct_key *tuple, __u64 now)
{
	struct ct_key own = *tuple;
	const struct ct_entry *entry = find_entry(&own, now);

	return entry ? entry->proxy_port_be : 0;
}

/*
 * A packet from an endpoint on a connection that the proxy has. Errors about such a connection go to this node's
 * stack, not to the server. Fragments have no ports to find a socket by. Returns 0 or a drop reason.
 */
__noinline int give_to_proxy(struct __sk_buff *skb, const struct packet *packet, __u64 now)
{
	struct bpf_sock_tuple tuple = {};
	__u8 protocol;
	__u32 size;

	if (!packet)
		return DROP_REDIRECT_WITHOUT_PROXY;
	if (packet->flags & FLAG_FRAGMENT)
		return DROP_FRAGMENTS_NOT_SUPPORTED;
	protocol = packet->key.protocol;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		size = tuple_of(&tuple, packet);
		if (protocol == IPPROTO_UDP || !find_own_socket(skb, packet, &tuple, size)) {
			aim_at_listener(&tuple, packet, proxy_port_of(&packet->key, now));
			if (!find_listener(skb, protocol, &tuple, size))
				return DROP_REDIRECT_WITHOUT_PROXY;
		}
	} else if (!packet->icmp_error) {
		return DROP_REDIRECT_WITHOUT_PROXY;
	}
	skb->mark = MARK_TO_PROXY;
	return 0;
}

/* From an endpoint's interface back into the node, which then finds the proxy's socket. */
__noinline int turn_to_proxy(struct __sk_buff *skb)
{
	__u8 loopback_mac[6] = {};

	if (bpf_skb_store_bytes(skb, 0, loopback_mac, sizeof(loopback_mac), 0))
		return TC_ACT_SHOT;
	skb->mark = MARK_TO_PROXY;
	return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
}

#endif
