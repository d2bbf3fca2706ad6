// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The two programs of an endpoint's host interface.
 *
 *   axoneme_from_ep   tcx ingress of the host veth: packets from the endpoint, egress policy
 *   axoneme_to_ep     tcx egress of the host veth: packets to the endpoint, ingress policy
 *
 *   from: parse -> [ARP, neighbour discovery pass] -> source address -> conntrack -> [goes on: pass]
 *               -> service? translate, conntrack -> judge.h -> redirected, or an answer to the proxy? proxy.h
 *               -> hostrouting.h
 *   to:   parse -> [ARP, neighbour discovery pass] -> conntrack -> [answer to the proxy: proxy.h] -> judge.h
 *               -> connection of a service? translate back
 *
 * Policy sees a packet for a service as one for its backend. Whatever the programs do not understand is
 * dropped with a reason.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "consts.h"
#include "structs.h"
#include "maps.h"
#include "parse.h"
#include "common.h"
#include "clock.h"
#include "judge.h"
#include "services.h"
#include "hostrouting.h"
#include "proxy.h"

/* UDP port of the node's tunnel, 0: none. The loader may set it before the load. */
const volatile __u16 tunnel_port_be = bpf_htons(8472);

static __always_inline int source_is_own(const struct packet *packet, const struct endpoint_entry *endpoint)
{
	const struct address *source = &packet->key.source;
	struct address own;

	if (packet->flags & FLAG_IPV6) {
		__builtin_memcpy(&own, endpoint->ipv6, 16);
		return !is_zero(&own) && same_words(&own, source);
	}
	__builtin_memcpy(&own, endpoint->ipv4, 4);
	return own.words[0] && own.words[0] == source->words[3];
}

/* What looks like a tunnel packet to a node would be taken for one of that node's peer. */
static __always_inline int is_tunnel_packet(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_UDP && tunnel_port_be &&
	       packet->key.destination_port_be == tunnel_port_be && node_ip_flags(&packet->key.destination);
}

/* Why a well-formed packet is not judged at all, or 0. */
static __always_inline int admit(const struct packet *packet, const struct endpoint_entry *endpoint, __u8 hook)
{
	if (hook == INGRESS)
		return 0;
	if (!source_is_own(packet, endpoint))
		return DROP_INVALID_SOURCE_IP;
	return is_tunnel_packet(packet) ? DROP_ENCAPSULATION_PROHIBITED : 0;
}

static __always_inline void subject_of(struct subject *subject, const struct endpoint_entry *endpoint)
{
	/* Before the policy map: a writer switches the map first, then raises the generation. */
	subject->generation = *(const volatile __u32 *)&endpoint->policy_generation;
	subject->identity = endpoint->identity;
	subject->endpoint_id = endpoint->endpoint_id;
	subject->flags = endpoint->flags;
	subject->carried = 0;
	subject->turned = 0;
}

/* Reads and admits a packet. Returns 0: judge it; else `*verdict` is final. */
static __always_inline int take_in(struct __sk_buff *skb, struct packet *packet, struct subject *subject, __u8 hook,
				   int *verdict)
{
	struct endpoint_entry *endpoint;
	__u32 ifindex = skb->ifindex;
	int reason;

	endpoint = bpf_map_lookup_elem(&axoneme_ep, &ifindex);
	subject->now = coarse_now();
	if (endpoint)
		subject_of(subject, endpoint);
	else
		__builtin_memset(subject, 0, sizeof(*subject));
	reason = read_packet(skb, packet, subject->endpoint_id, hook);
	if (reason == PASS_UNJUDGED) {
		*verdict = pass(skb, hook, subject->endpoint_id);
		return 1;
	}
	if (!reason)
		reason = endpoint ? admit(packet, endpoint, hook) : DROP_EP_NOT_READY;
	if (reason) {
		*verdict = refuse(skb, packet, subject, reason);
		return 1;
	}
	if (packet->first_fragment)
		remember_fragment(packet, subject->now);
	return 0;
}

static __always_inline int begins_or_ends_tcp(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_TCP && packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

/* To an endpoint of this node. Its own program will not see the packet, so this does all that it would. */
static __always_inline int deliver(struct __sk_buff *skb, struct packet *packet, struct subject *subject,
				   struct connection *connection, const struct local_entry *local)
{
	__u32 ifindex = local->ifindex;
	const struct endpoint_entry *receiver = bpf_map_lookup_elem(&axoneme_ep, &ifindex);
	int verdict, reason;

	if (!receiver || receiver->endpoint_id == subject->endpoint_id || hops_left(skb, packet) <= 1)
		return GOES_ON;
	subject_of(subject, receiver);
	set_key_end(&packet->key, packet->key.protocol, INGRESS, subject->endpoint_id);
	if (packet->first_fragment)
		remember_fragment(packet, subject->now);
	find_connection(connection, &packet->key, subject->now);
	if (is_proxys_answer(connection)) {
		skb->mark = MARK_TO_PROXY;
		return GOES_ON;
	}
	verdict = judge_found(skb, packet, subject, connection);
	if (verdict != GOES_ON)
		return verdict;
	reason = subject->turned & CT_TRANSLATED ? undo_service(skb, packet, subject->now) : 0;
	return reason ? refuse(skb, packet, subject, reason) : hand_over(skb, packet, local);
}

SEC("tc")
int axoneme_from_ep(struct __sk_buff *skb)
{
	const struct node_config *node;
	const struct local_entry *local;
	struct connection connection;
	struct subject subject;
	struct packet packet;
	int verdict, served, reason;

	if (take_in(skb, &packet, &subject, EGRESS, &verdict))
		return verdict;
	if (aggregation_of(subject.flags) == AGGREGATION_NONE)
		trace(skb, &packet, &subject, 0, TRACE_FROM_ENDPOINT);
	find_connection(&connection, &packet.key, subject.now);
	if (!connection.entry) {
		served = packet.icmp_error ? serve_error(skb, &packet, subject.now) : serve(skb, &packet, subject.now);
		if (served == SERVED_BY_ITSELF) {
			if (begins_or_ends_tcp(&packet))
				trace(skb, &packet, &subject, subject.identity, TRACE_FROM_ENDPOINT);
			pass(skb, EGRESS, subject.endpoint_id);
			return send_back(skb);
		}
		if (served == SERVED && is_tunnel_packet(&packet))
			served = DROP_ENCAPSULATION_PROHIBITED;
		if (served > SERVED)
			return refuse(skb, &packet, &subject, served);
		if (served == SERVED) {
			subject.turned = CT_TRANSLATED;
			find_connection(&connection, &packet.key, subject.now);
		}
	}
	verdict = judge_found(skb, &packet, &subject, &connection);
	if (verdict != GOES_ON && subject.turned)
		forget_service(&packet);
	if (verdict != GOES_ON)
		return verdict;
	if (subject.turned & TURNED_TO_PROXY) {
		reason = give_to_proxy(skb, &packet, subject.now);
		return reason ? refuse(skb, &packet, &subject, reason) : GOES_ON;
	}
	node = node_config();
	if (answers_proxy(node, &packet, subject.now)) {
		skb->mark = MARK_TO_PROXY;
		return GOES_ON;
	}
	if (!node || !(node->flags & NODE_HOST_ROUTING))
		return GOES_ON;
	local = local_endpoint(&packet.key.destination);
	if (local)
		return deliver(skb, &packet, &subject, &connection, local);
	return node->flags & NODE_TUNNEL ? GOES_ON : send_away(skb, &packet, node->uplink_ifindex);
}

SEC("tc")
int axoneme_to_ep(struct __sk_buff *skb)
{
	struct connection connection;
	__u32 mark = skb->mark;
	struct subject subject;
	struct packet packet;
	int verdict, reason;

	if (mark)
		skb->mark = 0; /* the endpoint has no use for it */
	if (take_in(skb, &packet, &subject, INGRESS, &verdict))
		return verdict;
	if ((mark & MARK_KIND) == MARK_HAIRPIN)
		return pass(skb, INGRESS, subject.endpoint_id);
	if ((mark & MARK_KIND) == MARK_IDENTITY)
		subject.carried = mark & MARK_NUMBER;
	find_connection(&connection, &packet.key, subject.now);
	if (is_proxys_answer(&connection) && (mark & MARK_KIND) != MARK_FROM_PROXY)
		return turn_to_proxy(skb);
	verdict = judge_found(skb, &packet, &subject, &connection);
	if (verdict != GOES_ON || !(subject.turned & CT_TRANSLATED))
		return verdict;
	reason = undo_service(skb, &packet, subject.now);
	return reason ? refuse(skb, &packet, &subject, reason) : GOES_ON;
}

char _license[] SEC("license") = "Dual BSD/GPL";
