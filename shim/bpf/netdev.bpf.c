// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The two programs of the uplink.
 *
 *   axoneme_from_netdev   tcx ingress: what undoes or continues a translation -> frontends that the world may
 *                         use: a backend of this node keeps its client's address, one elsewhere sees the
 *                         node's and answers through it, or keeps it too and answers by itself (dsr.h);
 *                         answers to the DNS proxy are its own (proxy.h)
 *   axoneme_to_netdev     tcx egress: what undoes or continues a translation -> pods' connections to the
 *                         world look as if they were the node's (masquerading)
 *
 * They own what they translate, nothing else: a packet that they do not understand, or that is for nobody
 * here, goes to the host's stack as it came. The stack forwards what was translated, with two exceptions: a
 * packet that now has an address of this node as its source, which the stack would take for a forgery when it
 * came from outside, and any other that the node passes on in a client's or a frontend's name.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "nodepath.h"
#include "snat.h"
#include "dsr.h"
#include "proxy.h"

#define IPV4_FRAGMENT 6 /* offset in the header */
#define IPV4_DONT_FRAGMENT 0x4000

#define NO_FRONTEND 0
#define SERVED 1 /* translations are in place */

#define BACKEND_HERE 1
#define BACKEND_ELSEWHERE 2
#define BACKEND_DIRECT 3 /* elsewhere, and wanted to answer by itself */

static __always_inline int is_here(const struct lb_backend *backend)
{
	return backend->flags & BACKEND_LOCAL || local_endpoint(&backend->address) ||
	       node_ip_flags(&backend->address) & NODE_IP_OWN;
}

/* Finds the frontend and a backend, which it writes into `becomes`. Returns NO_FRONTEND, BACKEND_HERE,
 * BACKEND_ELSEWHERE, BACKEND_DIRECT or a drop reason. */
__noinline int pick_backend(const struct packet *packet, struct nat_entry *becomes)
{
	const struct lb_service *service;
	struct lb_choice choice = {};
	struct lb_client client = {};
	int here;

	if (!packet || !becomes || is_icmp(packet->key.protocol))
		return NO_FRONTEND;
	service = find_service(&packet->key.destination, packet->key.destination_port_be, packet->key.protocol,
			       LB_OUTSIDE);
	if (!service)
		return NO_FRONTEND;
	if (!source_allowed(service, &packet->key.source))
		return DROP_NOT_IN_SOURCE_RANGE;
	client.address = packet->key.source;
	client.frontend = packet->key.destination;
	client.port_be = packet->key.source_port_be;
	client.frontend_port_be = packet->key.destination_port_be;
	client.protocol = packet->key.protocol;
	if (!choose_backend(service, &client, &choice))
		return DROP_SERVICE_BACKEND_NOT_FOUND;
	here = is_here(&choice.backend);
	/* Who asked for clients' addresses to be kept gets no backend where they would be lost. */
	if ((!here && service->flags & LB_LOCAL_ONLY) ||
	    is_mapped(&choice.backend.address) != is_mapped(&client.frontend))
		return DROP_SERVICE_BACKEND_NOT_FOUND;
	becomes->destination = choice.backend.address;
	becomes->destination_port_be = choice.backend.port_be;
	becomes->backend_id = choice.backend_id;
	becomes->set_id = choice.set_id;
	if (here)
		return BACKEND_HERE;
	return service->flags & LB_DSR ? BACKEND_DIRECT : BACKEND_ELSEWHERE;
}

/* The node's address of the packet's family. Returns 0 when it has none. */
static __always_inline int node_address(struct address *address, __u8 ipv6)
{
	const struct node_config *node = node_config();

	if (!node)
		return 0;
	copy_words(address, ipv6 ? &node->ipv6 : &node->ipv4, sizeof(*address));
	return !is_zero(address);
}

/* A packet that nothing is known of, to a frontend perhaps. Returns NO_FRONTEND, SERVED or a drop reason. */
__noinline int open_service(struct __sk_buff *skb, const struct packet *packet, __u64 now)
{
	struct nat_entry becomes = {};
	int found, reason;

	if (!packet)
		return NO_FRONTEND;
	found = pick_backend(packet, &becomes);
	if (found != BACKEND_HERE && found != BACKEND_ELSEWHERE && found != BACKEND_DIRECT)
		return found;
	if (found == BACKEND_DIRECT && !answers_directly(skb, packet, &becomes.destination))
		found = BACKEND_ELSEWHERE;
	becomes.source = packet->key.source;
	becomes.flags = NAT_SERVICE;
	becomes.state = CT_NEW;
	becomes.last_seen_ns = now;
	if (found == BACKEND_ELSEWHERE && !node_address(&becomes.source, packet->flags & FLAG_IPV6))
		return DROP_NO_NAT_MAPPING;
	if (found == BACKEND_DIRECT) {
		becomes.flags |= NAT_DSR_CLIENT;
		becomes.source_port_be = packet->key.source_port_be;
		reason = 0;
	} else {
		reason = claim_port(skb, &packet->key, &becomes, found == BACKEND_HERE ? NAT_TO_NET : NAT_FROM_NET);
	}
	if (reason)
		return reason;
	reason = remember_translation(&packet->key, NAT_FROM_NET, 0, &becomes);
	return reason ? reason : SERVED;
}

/* The device that leads to a destination. */
static __always_inline __u32 way_to(const struct address *destination)
{
	const struct node_config *node = node_config();
	struct address endpoint;

	if (!node)
		return 0;
	if (node->flags & NODE_TUNNEL && node->overlay_ifindex && find_tunnel(destination, &endpoint))
		return node->overlay_ifindex;
	return node->uplink_ifindex;
}

/* Whether a packet must not be cut and does not fit through a device. */
static __always_inline int is_too_big(struct __sk_buff *skb, const struct packet *packet, __u32 ifindex)
{
	__u32 mtu = 0;
	__be16 fragment = 0;

	if (bpf_check_mtu(skb, ifindex, &mtu, 0, BPF_MTU_CHK_SEGS) <= 0)
		return 0;
	return packet->flags & FLAG_IPV6 ||
	       (!bpf_skb_load_bytes(skb, ETH_HEADER + IPV4_FRAGMENT, &fragment, sizeof(fragment)) &&
		fragment & bpf_htons(IPV4_DONT_FRAGMENT));
}

/*
 * For the stack to tell a client that its packet is too big for the way to a remote backend: the packet goes
 * there with the client's address, and what the stack says about it is translated on its way out, as for a
 * backend here. Returns 0 or a drop reason.
 */
__noinline int leave_objection(struct __sk_buff *skb, struct packet *packet, const struct nat_entry *entry, __u64 now)
{
	struct nat_entry becomes, undo = {.flags = NAT_SERVICE | NAT_RETURN, .state = CT_NEW};
	struct ct_key answer;

	if (!packet || !entry || !answer_of(&answer, &packet->key))
		return DROP_INVALID_PACKET;
	becomes = *entry;
	copy_words(&becomes.source, &packet->key.source, sizeof(struct address));
	becomes.source_port_be = packet->key.source_port_be;
	copy_words(&undo.source, &answer.source, 2 * sizeof(struct address) + 2 * sizeof(__be16));
	undo.last_seen_ns = now;
	copy_words(&answer.source, &becomes.destination, sizeof(struct address));
	answer.source_port_be = becomes.destination_port_be;
	claim_translation(&answer, NAT_TO_NET, 0, &undo);
	return translate(skb, packet, &becomes);
}

/* Out by the device that leads to the destination's node, past the stack. */
static __always_inline int send_on(struct __sk_buff *skb, const struct packet *packet, __u32 identity)
{
	__u32 ifindex = way_to(&packet->key.destination);
	int reason;

	if (!ifindex)
		return node_drop(skb, packet, DROP_NO_CONFIGURATION, identity);
	reason = spend_hop(skb, packet);
	if (reason)
		return node_drop(skb, packet, reason, identity);
	/* For the tunnel, and for the host's firewall: this is no packet of the host. */
	carry_identity(skb, travelling(identity, packet->flags & FLAG_IPV6));
	count_verdict(INGRESS, 0, skb->len);
	return bpf_redirect_neigh(ifindex, NULL, 0, 0);
}

static __always_inline int is_own(const struct address *address)
{
	return node_ip_flags(address) & NODE_IP_OWN;
}

/* A packet that the stack has from here on. */
static __always_inline int come_in(struct __sk_buff *skb, const struct packet *packet, __u64 now)
{
	if (answers_proxy(node_config(), packet, now))
		skb->mark = MARK_TO_PROXY;
	return next(skb, INGRESS);
}

/* A packet on its way in whose translation is known. */
static __always_inline int translate_inbound(struct __sk_buff *skb, struct packet *packet, struct nat_entry *entry,
					     __u64 now)
{
	__u32 identity = 0;
	int reason, passed_on;

	/* Whose name it travels in is asked before its source changes. */
	passed_on = entry->flags & NAT_SERVICE &&
		    (entry->flags & NAT_DSR_CLIENT || !same_words(&entry->source, &packet->key.source));
	if (passed_on)
		identity = cached_identity(&packet->key.source);
	if (passed_on && !(entry->flags & NAT_RETURN) && is_too_big(skb, packet, way_to(&entry->destination))) {
		reason = leave_objection(skb, packet, entry, now);
		return reason ? node_drop(skb, packet, reason, identity) : next(skb, INGRESS);
	}
	advance_translation(entry, packet, now);
	reason = entry->flags & NAT_DSR_CLIENT ? name_frontend(skb, packet) : 0;
	if (!reason)
		reason = translate(skb, packet, entry);
	if (reason)
		return node_drop(skb, packet, reason, identity);
	return passed_on ? send_on(skb, packet, identity) : come_in(skb, packet, now);
}

/* An error that a router or the other end sends about a packet that was translated here. */
static __always_inline int translate_inbound_error(struct __sk_buff *skb, struct packet *packet, __u64 now)
{
	__u32 identity = cached_identity(&packet->key.source);
	int answer = translate_error(skb, packet, NAT_FROM_NET, 0, now);

	if (answer > 1)
		return node_drop(skb, packet, answer, identity);
	if (answer && is_own(&packet->key.source))
		return send_on(skb, packet, identity);
	return next(skb, INGRESS);
}

/* A SYN on a connection that is over opens another one. Of one whose answers do not come by here, the client's own
 * FIN says so. */
static __always_inline int opens_another(const struct nat_entry *entry, const struct packet *packet)
{
	return (entry->state == CT_CLOSING || (entry->flags & NAT_DSR_CLIENT && entry->flags & NAT_FIN)) &&
	       !(entry->flags & NAT_RETURN) && begins_connection(packet);
}

SEC("tc")
int axoneme_from_netdev(struct __sk_buff *skb)
{
	struct nat_entry *entry;
	struct packet packet;
	int answer;
	__u64 now;

	if (read_node_packet(skb, &packet, INGRESS))
		return next(skb, INGRESS);
	now = bpf_ktime_get_coarse_ns();
	if (packet.first_fragment)
		remember_fragment(&packet, now);
	if (may_name_frontend(&packet)) {
		answer = take_frontend(skb, &packet, now);
		if (answer != NO_FRONTEND_NAMED)
			return answer == FRONTEND_NAMED ? next(skb, INGRESS) : node_drop(skb, &packet, answer, 0);
	}
	entry = find_translation(&packet.key, NAT_FROM_NET, 0, now);
	if (entry && !opens_another(entry, &packet))
		return translate_inbound(skb, &packet, entry, now);
	if (packet.icmp_error)
		return translate_inbound_error(skb, &packet, now);
	answer = open_service(skb, &packet, now);
	if (answer == NO_FRONTEND)
		return come_in(skb, &packet, now);
	if (answer != SERVED)
		return node_drop(skb, &packet, answer, 0);
	entry = find_translation(&packet.key, NAT_FROM_NET, 0, now);
	if (!entry)
		return node_drop(skb, &packet, DROP_NO_NAT_MAPPING, 0);
	node_event(skb, &packet, TRACE_FROM_NETWORK, 0, 0);
	return translate_inbound(skb, &packet, entry, now);
}

static __always_inline int never_masqueraded(const struct address *destination)
{
	struct ipcache_key key = {.prefix_length = 128};

	copy_words(key.address, destination, sizeof(*destination));
	return bpf_map_lookup_elem(&axoneme_nomasq, &key) != NULL || node_ip_flags(destination);
}

static __always_inline int masquerades(const struct packet *packet)
{
	const struct node_config *node = node_config();

	return node && node->flags & (packet->flags & FLAG_IPV6 ? NODE_MASQUERADE6 : NODE_MASQUERADE4);
}

/* Whether somebody opened to the endpoint what this packet, or the one that it complains about, belongs to. */
__noinline int answers_inbound(struct __sk_buff *skb, const struct packet *packet, __u32 endpoint_id, __u64 now)
{
	struct ct_key opened = {};

	if (!packet)
		return 0;
	if (packet->icmp_error) {
		if (!read_quote(skb, packet, &opened))
			return 0;
	} else if (!reverse(&opened, &packet->key)) {
		return 0;
	}
	opened.endpoint_id = endpoint_id;
	return find_entry(&opened, now) != NULL;
}

#define NOT_MASQUERADED 0
#define MASQUERADED 1

/* A packet that nothing is known of, from a pod perhaps. Returns NOT_MASQUERADED, MASQUERADED (translations are
 * in place) or a drop reason. */
__noinline int open_masquerade(struct __sk_buff *skb, const struct packet *packet, __u64 now)
{
	const struct local_entry *pod;
	struct nat_entry becomes = {};
	int reason;

	if (!packet || !masquerades(packet))
		return NOT_MASQUERADED;
	pod = local_endpoint(&packet->key.source);
	if (!pod || !is_world(cached_identity(&packet->key.destination)) ||
	    never_masqueraded(&packet->key.destination) || answers_inbound(skb, packet, pod->endpoint_id, now))
		return NOT_MASQUERADED;
	/* Errors about what was translated were translated before. */
	if (packet->icmp_error || !node_address(&becomes.source, packet->flags & FLAG_IPV6))
		return DROP_NO_NAT_MAPPING;
	becomes.destination = packet->key.destination;
	becomes.destination_port_be = packet->key.destination_port_be;
	becomes.flags = NAT_MASQUERADE;
	becomes.state = CT_NEW;
	becomes.last_seen_ns = now;
	reason = claim_port(skb, &packet->key, &becomes, NAT_FROM_NET);
	if (!reason)
		reason = remember_translation(&packet->key, NAT_TO_NET, 0, &becomes);
	return reason ? reason : MASQUERADED;
}

static __always_inline int translate_outbound(struct __sk_buff *skb, struct packet *packet, struct nat_entry *entry,
					      __u64 now)
{
	int reason;

	advance_translation(entry, packet, now);
	end_with_answer(entry, packet);
	reason = translate(skb, packet, entry);
	return reason ? node_drop(skb, packet, reason, 0) : next(skb, EGRESS);
}

SEC("tc")
int axoneme_to_netdev(struct __sk_buff *skb)
{
	struct nat_entry *entry;
	struct packet packet;
	int answer;
	__u64 now;

	if (read_node_packet(skb, &packet, EGRESS))
		return next(skb, EGRESS);
	now = bpf_ktime_get_coarse_ns();
	if (packet.first_fragment)
		remember_fragment(&packet, now);
	entry = find_translation(&packet.key, NAT_TO_NET, 0, now);
	if (entry && !opens_another(entry, &packet))
		return translate_outbound(skb, &packet, entry, now);
	if (packet.icmp_error) {
		answer = translate_error(skb, &packet, NAT_TO_NET, 0, now);
		if (answer)
			return answer > 1 ? node_drop(skb, &packet, answer, 0) : next(skb, EGRESS);
	}
	answer = open_masquerade(skb, &packet, now);
	if (answer == NOT_MASQUERADED)
		return next(skb, EGRESS);
	if (answer != MASQUERADED)
		return node_drop(skb, &packet, answer, 0);
	entry = find_translation(&packet.key, NAT_TO_NET, 0, now);
	if (!entry)
		return node_drop(skb, &packet, DROP_NO_NAT_MAPPING, 0);
	node_event(skb, &packet, TRACE_TO_NETWORK, 0, 0);
	return translate_outbound(skb, &packet, entry, now);
}

char _license[] SEC("license") = "Dual BSD/GPL";
