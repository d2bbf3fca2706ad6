// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Services as the endpoints' programs see them: what leaves an endpoint for a frontend goes to a backend, what
 * comes back comes from the frontend.
 *
 *   serve()          from the endpoint: frontend? -> known translation, while its backend is there
 *                                                 -> else a backend is chosen and remembered -> translated
 *   forget_service() policy refused what serve() had made of a packet
 *   undo_service()   to the endpoint, after its policy passed the packet: the frontend's address again
 *   send_back()      the backend is the client itself: the packet turns round on its interface
 */
#ifndef AXONEME_SERVICES_H
#define AXONEME_SERVICES_H

#include "lb.h"
#include "nat.h"
#include "nodemaps.h"

#define NO_SERVICE 0 /* serve(): besides these a drop reason */
#define SERVED 1
#define SERVED_BY_ITSELF 2

#define PORT_ATTEMPTS 8
#define EPHEMERAL_PORTS 32768 /* ports above are for clients */

static __noinline struct nat_entry *known_translation(const struct packet *packet, __u64 now)
{
	return find_translation(&packet->key, NAT_FROM_EP, packet->key.endpoint_id, now);
}

static __always_inline int opens_tcp(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_TCP && packet->l4_offset &&
	       (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* A connection stays on its backend for as long as that exists, whether or not it takes new ones. */
static __always_inline int stays(const struct nat_entry *known, const struct packet *packet)
{
	__u32 backend_id = known->backend_id;

	if (known->state == CT_CLOSING && opens_tcp(packet))
		return 0;
	return bpf_map_lookup_elem(&axoneme_lb_backends, &backend_id) != NULL;
}

static __always_inline const struct address *loopback_of(const struct packet *packet)
{
	const struct node_config *node = node_config();
	const struct address *loopback;

	if (!node)
		return NULL;
	loopback = packet->flags & FLAG_IPV6 ? &node->loopback6 : &node->loopback4;
	return is_zero(loopback) ? NULL : loopback;
}

/* Makes `to` what the first packet of a connection becomes. Returns 0 or a drop reason. */
__noinline int choose_translation(const struct packet *packet, const struct lb_service *service,
				  struct nat_entry *to)
{
	const struct address *loopback;
	struct lb_choice choice = {};
	struct lb_client client = {};

	if (!packet || !service || !to)
		return DROP_SERVICE_BACKEND_NOT_FOUND;
	copy_words(&client.address, &packet->key.source, 2 * sizeof(struct address));
	client.port_be = packet->key.source_port_be;
	client.frontend_port_be = packet->key.destination_port_be;
	client.protocol = packet->key.protocol;
	if (!choose_backend(service, &client, &choice) ||
	    is_mapped(&choice.backend.address) == !!(packet->flags & FLAG_IPV6))
		return DROP_SERVICE_BACKEND_NOT_FOUND;
	copy_words(&to->source, &packet->key.source, sizeof(to->source));
	copy_words(&to->destination, &choice.backend.address, sizeof(to->destination));
	to->source_port_be = packet->key.source_port_be;
	to->destination_port_be = choice.backend.port_be;
	to->backend_id = choice.backend_id;
	to->set_id = choice.set_id;
	to->flags = NAT_SERVICE;
	to->state = CT_NEW;
	if (!same_words(&to->destination, &packet->key.source))
		return 0;
	loopback = loopback_of(packet);
	if (!loopback)
		return DROP_NO_NAT_MAPPING;
	copy_words(&to->source, loopback, sizeof(to->source));
	to->flags |= NAT_HAIRPIN;
	return 0;
}

/* Whether answers to `became` already mean another conversation of this endpoint than that of `packet`. */
static __always_inline int is_taken(const struct packet *packet, const struct ct_key *became, __u8 side, __u64 now)
{
	const struct nat_entry *back;
	const struct ct_entry *direct;
	struct ct_key answer;

	if (!answer_of(&answer, became))
		return 0;
	answer.direction = side;
	back = translation_at(&answer, became->protocol, now);
	if (back)
		return back->state != CT_CLOSING && (!same_words(&back->source, &packet->key.destination) ||
						     back->source_port_be != packet->key.destination_port_be ||
						     back->destination_port_be != packet->key.source_port_be);
	direct = find_entry(became, now);
	return direct && !(direct->flags & CT_TRANSLATED) && direct->state != CT_CLOSING && direct->state != CT_CUT;
}

/* Two frontends may lead one client port to one backend: the later conversation gets another source port.
 * SCTP's cannot change; there the later one wins. Returns 0 or a drop reason. */
__noinline int choose_port(const struct packet *packet, struct nat_entry *to, __u64 now)
{
	struct ct_key became;

	if (!packet || !to)
		return DROP_NO_NAT_MAPPING;
	copy_words(&became.source, &to->source, 2 * sizeof(struct address) + 2 * sizeof(__be16));
	became.protocol = packet->key.protocol;
	became.direction = EGRESS;
	became.endpoint_id = packet->key.endpoint_id;
	for (int i = 0; i < PORT_ATTEMPTS; i++) {
		if (became.protocol == IPPROTO_SCTP ||
		    !is_taken(packet, &became, to->flags & NAT_HAIRPIN ? NAT_FROM_EP : NAT_TO_EP, now)) {
			to->source_port_be = became.source_port_be;
			return 0;
		}
		became.source_port_be = bpf_htons(EPHEMERAL_PORTS | (bpf_get_prandom_u32() & (EPHEMERAL_PORTS - 1)));
	}
	return DROP_NO_NAT_MAPPING;
}

/* Both entries of a connection, the return first: no answer may come too early. */
static __noinline int remember_service(const struct packet *packet, struct nat_entry *to, __u64 now)
{
	struct nat_entry back = {};
	__u8 side = to->flags & NAT_HAIRPIN ? NAT_FROM_EP : NAT_TO_EP;
	struct ct_key answer;
	int reason;

	to->last_seen_ns = now;
	copy_words(&answer.source, &to->destination, sizeof(answer.source));
	copy_words(&answer.destination, &to->source, sizeof(answer.destination));
	answer.source_port_be = to->destination_port_be;
	answer.destination_port_be = to->source_port_be;
	answer.protocol = packet->key.protocol;
	answer.direction = side;
	answer.endpoint_id = packet->key.endpoint_id;
	copy_words(&back.source, &packet->key.destination, sizeof(back.source));
	copy_words(&back.destination, &packet->key.source, sizeof(back.destination));
	back.source_port_be = packet->key.destination_port_be;
	back.destination_port_be = packet->key.source_port_be;
	back.backend_id = to->backend_id;
	back.set_id = to->set_id;
	back.flags = to->flags | NAT_RETURN;
	back.state = CT_NEW;
	back.last_seen_ns = now;
	reason = remember_translation(&answer, side, packet->key.endpoint_id, &back);
	return reason ? reason : remember_translation(&packet->key, NAT_FROM_EP, packet->key.endpoint_id, to);
}

/* A connection that policy refuses takes up no room: what was remembered of it goes, unless an answer came by. */
__noinline int forget_service(const struct packet *packet)
{
	struct nat_entry *back;
	struct ct_key answer, from;

	if (!packet || !answer_of(&answer, &packet->key))
		return 0;
	answer.direction = NAT_TO_EP;
	back = bpf_map_lookup_elem(&axoneme_nat, &answer);
	if (!back || back->state != CT_NEW)
		return 0;
	copy_words(&from.source, &back->destination, sizeof(from.source));
	copy_words(&from.destination, &back->source, sizeof(from.destination));
	from.source_port_be = back->destination_port_be;
	from.destination_port_be = back->source_port_be;
	from.protocol = packet->key.protocol;
	from.direction = NAT_FROM_EP;
	from.endpoint_id = packet->key.endpoint_id;
	bpf_map_delete_elem(&axoneme_nat, &from);
	bpf_map_delete_elem(&axoneme_nat, &answer);
	return 0;
}

/* The answer of an endpoint to itself: it goes to the loopback address, which nobody else has. */
static __always_inline int serve_itself(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	const struct address *loopback = loopback_of(packet);
	struct nat_entry *known;
	int reason;

	if (!loopback || !same_words(loopback, &packet->key.destination))
		return NO_SERVICE;
	known = known_translation(packet, now);
	if (!known)
		return DROP_NO_NAT_MAPPING;
	advance_translation(known, packet, now);
	reason = translate(skb, packet, known);
	return reason ? reason : SERVED_BY_ITSELF;
}

/*
 * A packet from an endpoint that belongs to no connection by its own tuple: is it for a service? Then it becomes
 * one for a backend. Returns NO_SERVICE, SERVED, SERVED_BY_ITSELF, or a drop reason.
 */
__noinline int serve(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	const struct lb_service *service;
	struct nat_entry *known, to;
	int reason;
	__u8 flags;

	if (!packet)
		return DROP_INVALID_PACKET;
	if (is_icmp(packet->key.protocol))
		return NO_SERVICE;
	service = find_service(&packet->key.destination, packet->key.destination_port_be, packet->key.protocol,
			       LB_INSIDE);
	if (!service)
		return serve_itself(skb, packet, now);
	known = known_translation(packet, now);
	if (known && stays(known, packet)) {
		flags = known->flags;
		advance_translation(known, packet, now);
		reason = translate(skb, packet, known);
	} else {
		__builtin_memset(&to, 0, sizeof(to));
		reason = choose_translation(packet, service, &to);
		if (!reason)
			reason = choose_port(packet, &to, now);
		if (!reason)
			reason = remember_service(packet, &to, now);
		if (!reason)
			reason = translate(skb, packet, &to);
		flags = to.flags;
	}
	if (reason)
		return reason;
	return flags & NAT_HAIRPIN ? SERVED_BY_ITSELF : SERVED;
}

/* An error from an endpoint about a packet that was translated on its way here. Returns as serve() does. */
__noinline int serve_error(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	struct address own;
	int done;

	if (!packet)
		return DROP_INVALID_PACKET;
	copy_words(&own, &packet->key.source, sizeof(own));
	done = translate_error(skb, packet, NAT_FROM_EP, packet->key.endpoint_id, now);
	if (done != 1)
		return done;
	return same_words(&packet->key.destination, &own) ? SERVED_BY_ITSELF : SERVED;
}

/* An answer to an endpoint that talks to a service. Returns 0 or a drop reason. */
__noinline int undo_translation(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	struct nat_entry *to;

	if (!packet)
		return DROP_INVALID_PACKET;
	to = find_translation(&packet->key, NAT_TO_EP, packet->key.endpoint_id, now);
	if (!to)
		return DROP_NO_NAT_MAPPING;
	advance_translation(to, packet, now);
	return translate(skb, packet, to);
}

/* The same for an answer or an error about such a connection. Inline: translate_error() leaves little of the
 * stack to its callers. */
static __always_inline int undo_service(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	int done;

	if (!packet->icmp_error || !packet->l4_offset)
		return undo_translation(skb, packet, now);
	done = translate_error(skb, packet, NAT_TO_EP, packet->key.endpoint_id, now);
	return done == 1 ? 0 : done;
}

/* Back to where the packet came from. Its mark tells the program there that nobody need judge it. */
__noinline int send_back(struct __sk_buff *skb)
{
	__u8 macs[12], turned[12];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return TC_ACT_SHOT;
	copy_mac(turned, macs + 6);
	copy_mac(turned + 6, macs);
	if (bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0))
		return TC_ACT_SHOT;
	skb->mark = MARK_HAIRPIN;
	return bpf_redirect(skb->ifindex, 0);
}

#endif
