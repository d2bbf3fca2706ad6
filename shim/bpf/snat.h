// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Port allocation. A connection that is to look as if it came from the node (or, from a second frontend, from
 * its client again) needs a port that tells its answers apart: the return entry under that port is claimed
 * before anything else is written, so two processors never get the same one.
 */
#ifndef AXONEME_SNAT_H
#define AXONEME_SNAT_H

#include "lb.h"
#include "nat.h"
#include "nodemaps.h"

#define PORT_TRIES 32

struct port_search {
	struct __sk_buff *skb;
	struct ct_key answer; /* as the answers will arrive, with the port on trial; a key of axoneme_nat */
	struct nat_entry undo;
	__u32 first;	/* smallest port, host order */
	__u32 ports;	/* size of the range; 0: only the packet's own port will do */
	__u32 start;	/* offset of the first try in the range */
	__be16 own_be;	/* the packet's own port */
	__be16 found_be;
	__u8 side;
	__u8 found;
	__u8 keep; /* 1: the packet's own port needs not lie in the range */
	__u8 pad;
};

/* A socket of this node that answers to the port would lose them. The range lies outside of that for local
 * connections by default, but a socket may bind any port. */
static __always_inline int socket_has_port(struct port_search *search)
{
	const struct ct_key *answer = &search->answer;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket = NULL;
	__u32 size = sizeof(tuple.ipv6);

	if (is_mapped(&answer->source)) {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.saddr = answer->source.words[3];
		tuple.ipv4.daddr = answer->destination.words[3];
		tuple.ipv4.sport = answer->source_port_be;
		tuple.ipv4.dport = answer->destination_port_be;
	} else {
		copy_words(tuple.ipv6.saddr, &answer->source, sizeof(struct address));
		copy_words(tuple.ipv6.daddr, &answer->destination, sizeof(struct address));
		tuple.ipv6.sport = answer->source_port_be;
		tuple.ipv6.dport = answer->destination_port_be;
	}
	if (answer->protocol == IPPROTO_TCP)
		socket = bpf_sk_lookup_tcp(search->skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (answer->protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(search->skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	bpf_sk_release(socket);
	return 1;
}

/* Whether the entry in the way is this very connection's: opened again, or by two packets at once. */
static __always_inline int is_ours(const struct port_search *search, const struct nat_entry *known)
{
	const struct nat_entry *undo = &search->undo;

	return same_words(&known->source, &undo->source) && same_words(&known->destination, &undo->destination) &&
	       known->source_port_be == undo->source_port_be &&
	       known->destination_port_be == undo->destination_port_be;
}

/* Returns 1 when the answer's entry is this connection's from now on. As claim_translation(), but on the stack of
 * who searches: the callback's own is what calls have left. */
static __always_inline int claim(struct port_search *search)
{
	const struct nat_entry *known = bpf_map_lookup_elem(&axoneme_nat, &search->answer);

	if (known && is_ours(search, known))
		return !bpf_map_update_elem(&axoneme_nat, &search->answer, &search->undo, BPF_ANY);
	if (known && (__s64)(search->undo.last_seen_ns - known->last_seen_ns) >
			     (__s64)translation_lifetime_ns(known, search->answer.protocol))
		bpf_map_delete_elem(&axoneme_nat, &search->answer);
	return !bpf_map_update_elem(&axoneme_nat, &search->answer, &search->undo, BPF_NOEXIST);
}

/* bpf_loop() calls it with 0, 1, 2, ...: the packet's own port, then a walk through the range. 1 ends it. */
static long try_port(__u32 attempt, void *context)
{
	struct port_search *search = context;
	__be16 port_be = search->own_be;
	__u32 own = bpf_ntohs(port_be);

	if (attempt) {
		if (!search->ports)
			return 1;
		port_be = bpf_htons(search->first + (search->start + attempt) % search->ports);
	} else if (!search->keep && own - search->first >= search->ports) {
		return 0;
	}
	if (is_icmp(search->answer.protocol))
		search->answer.source_port_be = port_be;
	else
		search->answer.destination_port_be = port_be;
	if (search->side == NAT_FROM_NET && socket_has_port(search))
		return 0;
	if (!claim(search))
		return 0;
	search->found_be = port_be;
	search->found = 1;
	return 1;
}

static __always_inline __u32 hash_tuple(const struct ct_key *tuple)
{
	__u32 hash = tuple->protocol;

#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = mix(mix(hash, tuple->source.words[i]), tuple->destination.words[i]);
	return mix(hash, (__u32)tuple->source_port_be << 16 | tuple->destination_port_be);
}

static __always_inline void set_range(struct port_search *search, const struct node_config *node, __u8 protocol)
{
	__u32 low = node->nat_port_min, high = node->nat_port_max;

	search->first = low;
	if (low && high >= low)
		search->ports = high - low + 1;
	if (protocol == IPPROTO_SCTP) { /* its ports cannot change */
		search->keep = 1;
		search->ports = 0;
	}
}

/*
 * `tuple` is to become `becomes`, answers arrive at the hook `side`: finds a source port (ICMP: an id), claims
 * the return entry under it and writes it into `becomes`. Returns 0 or a drop reason.
 */
__noinline int claim_port(struct __sk_buff *skb, const struct ct_key *tuple, struct nat_entry *becomes, __u8 side)
{
	const struct node_config *node = node_config();
	struct port_search search = {.skb = skb, .side = side};
	struct ct_key *answer = &search.answer;
	struct nat_entry *undo = &search.undo;

	if (!tuple || !becomes || !node)
		return DROP_NO_NAT_MAPPING;
	if (tuple->protocol == IPPROTO_SCTP && tuple->destination_port_be != becomes->destination_port_be)
		return DROP_NAT_PROTOCOL;
	/* First what an answer to the packet as it is would be: the undoing entry says just that. */
	if (!answer_of(answer, tuple))
		return DROP_NAT_PROTOCOL;
	copy_words(&undo->source, &answer->source, 2 * sizeof(struct address) + 2 * sizeof(__be16));
	undo->flags = becomes->flags | NAT_RETURN;
	undo->state = CT_NEW;
	undo->last_seen_ns = becomes->last_seen_ns;
	undo->backend_id = becomes->backend_id;
	undo->set_id = becomes->set_id;
	answer->direction = side; /* so it is a key of axoneme_nat */
	answer->endpoint_id = 0;
	copy_words(&answer->source, &becomes->destination, sizeof(struct address));
	copy_words(&answer->destination, &becomes->source, sizeof(struct address));
	if (!is_icmp(tuple->protocol))
		answer->source_port_be = becomes->destination_port_be;
	search.own_be = tuple->source_port_be;
	search.start = hash_tuple(tuple);
	search.keep = side == NAT_TO_NET; /* the client's own port, if nothing else has it */
	set_range(&search, node, tuple->protocol);
	bpf_loop(PORT_TRIES, try_port, &search, 0);
	if (!search.found)
		return tuple->protocol == IPPROTO_SCTP ? DROP_NAT_PROTOCOL : DROP_NO_NAT_MAPPING;
	becomes->source_port_be = search.found_be;
	return 0;
}

#endif
