// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Direct server return: the backend's node answers a client itself, in the frontend's name. For that it has to
 * know the frontend, whose address the packet no longer has once its destination is the backend. It travels in
 * the packet:
 *
 *   IPv4   an option of 8 bytes, first of the header: kind, length, port, address
 *   IPv6   a destination options header of 24 bytes, first of all: one option with port and address
 *
 * Kinds are those for experiments (RFC 4727). IPv4: copied into fragments. IPv6: skipped by who does not know it.
 * A TCP connection names its frontend in SYNs, UDP in every packet that has room for it: nobody at the client's
 * node can see which datagram is answered.
 *
 * The node that a client reaches keeps an entry FROM_NET (client -> frontend) => (client -> backend), so that a
 * connection stays on its backend; the backend's node keeps TO_NET (backend -> client) => (frontend -> client).
 * Both have NAT_DSR_CLIENT. Neither sees both directions: the first never closes by what it sees, but a SYN after
 * the client's FIN opens another connection; the second closes with the backend's FIN.
 */
#ifndef AXONEME_DSR_H
#define AXONEME_DSR_H

#include "lb.h"
#include "nat.h"
#include "nodepath.h"

#define DSR_KIND4 0x9e
#define DSR_KIND6 0x1e
#define DSR_SIZE4 8
#define DSR_SIZE6 24
#define DSR_BODY6 20	 /* of the option: port, two bytes of nothing, address */
#define IPV4_LARGEST 60	 /* header */
#define IPV6_LENGTH 4	 /* offset in the header: payload length, next header, hop limit */
#define DSR_ROOM (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)

#define NO_FRONTEND_NAMED 0
#define FRONTEND_NAMED 1

/* The beginning of an IPv4 header, and the option, which lies behind the 20 bytes that every header has. */
struct dsr_header4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_be;
	__u8 kind;
	__u8 size;
	__be16 port_be;
	__be32 address;
};

struct dsr_header6 {
	__u8 next;
	__u8 words; /* of 8 bytes, without the first */
	__u8 kind;
	__u8 size;
	__be16 port_be;
	__be16 nothing;
	struct address address;
};

struct ipv6_length {
	__be16 payload_be;
	__u8 next;
	__u8 hops;
};

static __always_inline int begins_connection(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_TCP && packet->l4_offset &&
	       (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline int wants_option(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_UDP || begins_connection(packet);
}

/* Whether the packet may grow by the option: its header has room, and the uplink takes it. */
static __always_inline int has_room(struct __sk_buff *skb, const struct packet *packet, __u32 uplink)
{
	__u32 mtu = 0, ipv6 = packet->flags & FLAG_IPV6;

	if (packet->flags & FLAG_FRAGMENT || skb->gso_size)
		return 0;
	/* Other extension headers may have to come first: the hop-by-hop options do. */
	if (ipv6 ? packet->l4_offset != L4_PLAIN6 :
		   packet->l4_offset > ETH_HEADER + IPV4_LARGEST - DSR_SIZE4)
		return 0;
	return !bpf_check_mtu(skb, uplink, &mtu, ipv6 ? DSR_SIZE6 : DSR_SIZE4, 0);
}

/*
 * Whether a connection that begins now, to a backend elsewhere, is answered directly. Through a tunnel it is not.
 * A client inside is none either: its answer would take another way than the packet, or its packet come back to
 * where it was sent, from outside. And a backend that no node of ours has cannot be told of the frontend.
 */
__noinline int answers_directly(struct __sk_buff *skb, const struct packet *packet, const struct address *backend)
{
	const struct node_config *node = node_config();
	__u32 client, server;

	if (!packet || !backend || !node || node->flags & NODE_TUNNEL || packet->flags & FLAG_FRAGMENT ||
	    (packet->key.protocol != IPPROTO_TCP && packet->key.protocol != IPPROTO_UDP))
		return 0;
	client = cached_identity(&packet->key.source);
	server = cached_identity(backend);
	if ((client && !is_world(client)) || !server || is_world(server))
		return 0;
	return !wants_option(packet) || has_room(skb, packet, node->uplink_ifindex);
}

/* `before` and `after`: the beginning of the header and the option's place. The header's sum stays nothing, so a
 * checksum that a device made of the whole packet stays right too. */
static __always_inline int store_header4(struct __sk_buff *skb, struct dsr_header4 *before, struct dsr_header4 *after)
{
	__s64 change = bpf_csum_diff((__be32 *)before, sizeof(*before), (__be32 *)after, sizeof(*after), 0);

	if (change < 0 || bpf_l3_csum_replace(skb, ETH_HEADER + IPV4_SUM, 0, change, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HEADER, after, 4, 0) ||
	    bpf_skb_store_bytes(skb, L4_PLAIN4, &after->kind, DSR_SIZE4, 0))
		return DROP_WRITE_ERROR;
	return 0;
}

static __always_inline int insert4(struct __sk_buff *skb, const struct packet *packet)
{
	struct dsr_header4 before = {}, after;

	if (bpf_skb_load_bytes(skb, ETH_HEADER, &before, 4) ||
	    bpf_skb_adjust_room(skb, DSR_SIZE4, BPF_ADJ_ROOM_NET, DSR_ROOM))
		return DROP_WRITE_ERROR;
	after = before;
	after.version_ihl += DSR_SIZE4 / 4;
	after.total_be = bpf_htons(bpf_ntohs(before.total_be) + DSR_SIZE4);
	after.kind = DSR_KIND4;
	after.size = DSR_SIZE4;
	after.port_be = packet->key.destination_port_be;
	after.address = packet->key.destination.words[3];
	return store_header4(skb, &before, &after);
}

static __always_inline int store_length6(struct __sk_buff *skb, struct ipv6_length *length, int change, __u8 next)
{
	length->payload_be = bpf_htons(bpf_ntohs(length->payload_be) + change);
	length->next = next;
	return bpf_skb_store_bytes(skb, ETH_HEADER + IPV6_LENGTH, length, sizeof(*length), BPF_F_RECOMPUTE_CSUM) ?
		       DROP_WRITE_ERROR :
		       0;
}

static __always_inline int insert6(struct __sk_buff *skb, const struct packet *packet)
{
	struct dsr_header6 header = {.words = DSR_SIZE6 / 8 - 1, .kind = DSR_KIND6, .size = DSR_BODY6};
	struct ipv6_length length;

	if (bpf_skb_load_bytes(skb, ETH_HEADER + IPV6_LENGTH, &length, sizeof(length)) ||
	    bpf_skb_adjust_room(skb, DSR_SIZE6, BPF_ADJ_ROOM_NET, DSR_ROOM))
		return DROP_WRITE_ERROR;
	header.next = length.next;
	header.port_be = packet->key.destination_port_be;
	copy_words(&header.address, &packet->key.destination, sizeof(header.address));
	if (bpf_skb_store_bytes(skb, L4_PLAIN6, &header, sizeof(header), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	return store_length6(skb, &length, DSR_SIZE6, EXT_DESTINATION);
}

/* Before translation: the packet's destination, a frontend, goes into the packet, if it is to and has room. One
 * that grew too large, of a connection that the backend's node knows already, does without. Returns 0 or a drop
 * reason. */
__noinline int name_frontend(struct __sk_buff *skb, struct packet *packet)
{
	const struct node_config *node = node_config();
	int reason, size;

	if (!packet || !node)
		return DROP_INVALID_PACKET;
	if (!wants_option(packet) || !has_room(skb, packet, node->uplink_ifindex))
		return 0;
	size = packet->flags & FLAG_IPV6 ? DSR_SIZE6 : DSR_SIZE4;
	reason = packet->flags & FLAG_IPV6 ? insert6(skb, packet) : insert4(skb, packet);
	if (reason)
		return reason;
	packet->l4_offset += size;
	packet->end += size;
	return 0;
}

/* What a packet says of its frontend. Returns 0 when it says nothing. */
static __always_inline int read_frontend(struct __sk_buff *skb, const struct packet *packet,
					 struct address *frontend, __be16 *port_be)
{
	__u8 next = 0;

	if (packet->flags & FLAG_IPV6) {
		struct dsr_header6 header;

		if (bpf_skb_load_bytes(skb, ETH_HEADER + IPV6_LENGTH + 2, &next, 1) || next != EXT_DESTINATION ||
		    bpf_skb_load_bytes(skb, L4_PLAIN6, &header, sizeof(header)) ||
		    header.words != DSR_SIZE6 / 8 - 1 || header.kind != DSR_KIND6 || header.size != DSR_BODY6)
			return 0;
		copy_words(frontend, &header.address, sizeof(*frontend));
		*port_be = header.port_be;
	} else {
		struct dsr_header4 header;

		if (bpf_skb_load_bytes(skb, ETH_HEADER, &header, 4) ||
		    (header.version_ihl & 0xf) * 4 < IPV4_HEADER + DSR_SIZE4 ||
		    bpf_skb_load_bytes(skb, L4_PLAIN4, &header.kind, DSR_SIZE4) || header.kind != DSR_KIND4 ||
		    header.size != DSR_SIZE4)
			return 0;
		map_ipv4(frontend, header.address);
		*port_be = header.port_be;
	}
	return 1;
}

struct backend_search {
	struct address address;
	__be16 port_be;
	__u8 protocol;
	__u8 found;
	__u32 set_id;
	__u32 backend_id;
};

/* bpf_loop() calls it for every slot of a set. 1 ends it. */
static long match_slot(__u32 slot, void *context)
{
	struct backend_search *search = context;
	__u32 backend_id = slot_backend(search->set_id, slot);
	const struct lb_backend *backend = bpf_map_lookup_elem(&axoneme_lb_backends, &backend_id);

	if (!backend || backend->port_be != search->port_be || backend->protocol != search->protocol ||
	    !same_words(&backend->address, &search->address))
		return 0;
	search->backend_id = backend_id;
	search->found = 1;
	return 1;
}

/* The service of a frontend as this node knows it. A node port of another node has that node's address: here it
 * is one of this node's. */
static __always_inline const struct lb_service *known_frontend(const struct address *frontend, __be16 port_be,
							       __u8 protocol, __u32 ipv6)
{
	const struct lb_service *service = find_service(frontend, port_be, protocol, LB_OUTSIDE);
	const struct node_config *node = node_config();

	if (service || !node || !(node_ip_flags(frontend) & NODE_IP_TUNNEL_PEER))
		return service;
	return find_service(ipv6 ? &node->ipv6 : &node->ipv4, port_be, protocol, LB_OUTSIDE);
}

/*
 * Whether the packet's destination is a backend of the frontend that it names. Anybody can write an option: what
 * it says is believed only of frontends that are ours and answer this way, and of their backends. Else a stranger
 * could make a workload answer under any address, this node's or a foreign one.
 */
__noinline int is_backend_of(const struct packet *packet, const struct address *frontend, __u16 port_be,
			     struct nat_entry *undo)
{
	struct backend_search search = {};
	const struct lb_service *service;

	if (!packet || !frontend || !undo || is_mapped(frontend) == !!(packet->flags & FLAG_IPV6))
		return 0;
	service = known_frontend(frontend, port_be, packet->key.protocol, packet->flags & FLAG_IPV6);
	if (!service || !(service->flags & LB_DSR))
		return 0;
	copy_words(&search.address, &packet->key.destination, sizeof(search.address));
	search.port_be = packet->key.destination_port_be;
	search.protocol = packet->key.protocol;
	search.set_id = service->set_id;
	bpf_loop(service->slots, match_slot, &search, 0);
	undo->set_id = search.set_id;
	undo->backend_id = search.backend_id;
	return search.found;
}

static __always_inline int is_over(const struct nat_entry *entry)
{
	return entry->state == CT_CLOSING || entry->flags & NAT_FIN;
}

/* Remembers for the answers in whose name they go. Returns 0 or a drop reason. */
__noinline int remember_frontend(const struct packet *packet, const struct address *frontend, __u16 port_be,
				 __u64 now)
{
	struct nat_entry *known;
	struct ct_key answer;
	int same;

	if (!packet || !frontend || !answer_of(&answer, &packet->key))
		return DROP_INVALID_PACKET;
	/* So it is a key of axoneme_nat; a copy of it would be stack that the calls from here have no room for. */
	answer.direction = NAT_TO_NET;
	answer.endpoint_id = 0;
	known = translation_at(&answer, answer.protocol, now);
	same = known && known->flags & NAT_DSR_CLIENT && known->source_port_be == port_be &&
	       same_words(&known->source, frontend);
	if (same && !(is_over(known) && begins_connection(packet))) {
		known->last_seen_ns = now;
		return 0;
	}
	/* Declared here, after the key of the search is off the stack: 6.1 counts every frame by 32 bytes. */
	struct nat_entry undo = {.flags = NAT_SERVICE | NAT_DSR_CLIENT | NAT_RETURN, .state = CT_NEW};

	if (!is_backend_of(packet, frontend, port_be, &undo))
		return DROP_INVALID_PACKET;
	/* Two frontends for one client's port: answers could not be told apart, and the first one keeps it. */
	if (known && !is_over(known))
		return DROP_NO_NAT_MAPPING;
	copy_words(&undo.source, frontend, sizeof(undo.source));
	undo.source_port_be = port_be;
	copy_words(&undo.destination, &answer.destination, sizeof(undo.destination));
	undo.destination_port_be = answer.destination_port_be;
	undo.last_seen_ns = now;
	return bpf_map_update_elem(&axoneme_nat, &answer, &undo, BPF_ANY) ? DROP_NO_NAT_MAPPING : 0;
}

static __always_inline int strip4(struct __sk_buff *skb)
{
	struct dsr_header4 before = {}, after = {};

	if (bpf_skb_load_bytes(skb, ETH_HEADER, &before, 4) ||
	    bpf_skb_load_bytes(skb, L4_PLAIN4, &before.kind, DSR_SIZE4))
		return DROP_WRITE_ERROR;
	after.version_ihl = before.version_ihl - DSR_SIZE4 / 4;
	after.tos = before.tos;
	after.total_be = bpf_htons(bpf_ntohs(before.total_be) - DSR_SIZE4);
	if (store_header4(skb, &before, &after) ||
	    bpf_skb_adjust_room(skb, -DSR_SIZE4, BPF_ADJ_ROOM_NET, DSR_ROOM))
		return DROP_WRITE_ERROR;
	return 0;
}

static __always_inline int strip6(struct __sk_buff *skb)
{
	struct ipv6_length length;
	__u8 next = 0;

	if (bpf_skb_load_bytes(skb, ETH_HEADER + IPV6_LENGTH, &length, sizeof(length)) ||
	    bpf_skb_load_bytes(skb, L4_PLAIN6, &next, 1) ||
	    bpf_skb_adjust_room(skb, -DSR_SIZE6, BPF_ADJ_ROOM_NET, DSR_ROOM))
		return DROP_WRITE_ERROR;
	return store_length6(skb, &length, -DSR_SIZE6, next);
}

/*
 * A packet on its way in that names its frontend, for somebody here: the option goes, what it says is kept for the
 * answers. Returns NO_FRONTEND_NAMED, FRONTEND_NAMED (the packet is the client's own again, to the backend) or a
 * drop reason. A TCP packet names its frontend in SYNs only.
 */
__noinline int take_frontend(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	struct address frontend = {};
	int reason, size;
	__be16 port_be = 0;

	if (!packet || !read_frontend(skb, packet, &frontend, &port_be))
		return NO_FRONTEND_NAMED;
	if (!local_endpoint(&packet->key.destination) && !(node_ip_flags(&packet->key.destination) & NODE_IP_OWN))
		return NO_FRONTEND_NAMED;
	if (!wants_option(packet))
		return DROP_INVALID_PACKET;
	reason = remember_frontend(packet, &frontend, port_be, now);
	if (!reason)
		reason = packet->flags & FLAG_IPV6 ? strip6(skb) : strip4(skb);
	if (reason)
		return reason;
	size = packet->flags & FLAG_IPV6 ? DSR_SIZE6 : DSR_SIZE4;
	if (packet->l4_offset)
		packet->l4_offset -= size;
	packet->end -= size;
	return FRONTEND_NAMED;
}

/* Headers beyond the plain ones: an option may be among them. */
static __always_inline int may_name_frontend(const struct packet *packet)
{
	return packet->l4_offset != (packet->flags & FLAG_IPV6 ? L4_PLAIN6 : L4_PLAIN4);
}

/* Of an answer that this node sends in a frontend's name. Nobody here sees the client's FIN as one of this
 * connection, so the backend's ends it. */
static __always_inline void end_with_answer(struct nat_entry *entry, const struct packet *packet)
{
	if (entry->flags & NAT_DSR_CLIENT && packet->key.protocol == IPPROTO_TCP && packet->tcp_flags & TCP_FIN)
		entry->state = CT_CLOSING;
}

#endif
