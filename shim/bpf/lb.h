// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * From a frontend to a backend: affinity first, then the set's Maglev table or a random slot. Which packets
 * come here, and what becomes of their addresses, is up to the programs.
 */
#ifndef AXONEME_LB_H
#define AXONEME_LB_H

#include <bpf/bpf_endian.h>

#include "lbmaps.h"
#include "words.h"

/* What a choice is made for. */
struct lb_client {
	struct address address; /* sockets: the cookie of their network namespace */
	struct address frontend;
	__be16 port_be;
	__be16 frontend_port_be;
	__u8 protocol;
	__u8 socket; /* 1: `address` is a cookie */
	__u8 pad[2];
};

struct lb_choice {
	__u32 backend_id;
	__u32 set_id;
	struct lb_backend backend;
};

static __always_inline const struct lb_service *find_service(const struct address *address, __be16 port_be,
							     __u8 protocol, __u8 scope)
{
	struct lb_key key = {.port_be = port_be, .protocol = protocol, .scope = scope};

	copy_words(&key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&axoneme_lb, &key);
}

/* Murmur3's finaliser over the words of the tuple: the same on every node, so that any node that a client
 * reaches chooses the same element of the same table. */
static __always_inline __u32 mix(__u32 hash, __u32 word)
{
	hash ^= word;
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

static __always_inline __u32 hash_client(const struct lb_client *client)
{
	__u32 hash = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = mix(mix(hash, client->address.words[i]), client->frontend.words[i]);
	return mix(hash, ((__u32)client->port_be << 16 | client->frontend_port_be) ^ client->protocol);
}

static __always_inline __u32 slot_backend(__u32 set_id, __u32 slot)
{
	struct lb_slot_key key = {.set_id = set_id, .slot = slot};
	__u32 *found = bpf_map_lookup_elem(&axoneme_lb_slots, &key);

	return found ? *found : 0;
}

static __always_inline __u32 maglev_backend(const struct lb_service *service, const struct lb_client *client)
{
	__u32 set_id = service->set_id, index, *found;
	void *table = bpf_map_lookup_elem(&axoneme_maglev, &set_id);

	if (!table || !service->maglev_size)
		return 0;
	index = hash_client(client) % service->maglev_size;
	found = bpf_map_lookup_elem(table, &index);
	return found ? *found : 0;
}

static __always_inline int usable(__u32 backend_id, struct lb_choice *choice)
{
	const struct lb_backend *backend = bpf_map_lookup_elem(&axoneme_lb_backends, &backend_id);

	if (!backend)
		return 0;
	choice->backend_id = backend_id;
	choice->backend = *backend;
	return 1;
}

static __always_inline int keep_affinity(const struct lb_service *service, const struct lb_affinity_key *key,
					 struct lb_choice *choice, __u64 now)
{
	struct lb_affinity *known = bpf_map_lookup_elem(&axoneme_affinity, key);

	if (!known || (__s64)(now - known->last_used_ns) > (__s64)(service->affinity_seconds * NSEC_PER_SEC))
		return 0;
	/* A backend that is on its way out gets no new connection, whoever came before. */
	if (!usable(known->backend_id, choice) || choice->backend.flags & BACKEND_TERMINATING)
		return 0;
	known->last_used_ns = now;
	return 1;
}

/*
 * Chooses a backend for a new connection. Returns 1, or 0 when there is none. A Maglev table that is not
 * there yet falls back to a slot: a connection is better than a drop.
 */
__noinline int choose_backend(const struct lb_service *service, const struct lb_client *client,
			      struct lb_choice *choice)
{
	struct lb_affinity_key affinity = {};
	__u64 now = bpf_ktime_get_ns();
	__u32 backend_id = 0;

	if (!service || !client || !choice || !service->slots)
		return 0;
	choice->set_id = service->set_id;
	if (service->flags & LB_AFFINITY) {
		copy_words(&affinity.client, &client->address, sizeof(affinity.client));
		affinity.set_id = service->set_id;
		affinity.socket = client->socket;
		if (keep_affinity(service, &affinity, choice, now))
			return 1;
	}
	if (service->maglev_size)
		backend_id = maglev_backend(service, client);
	if (!backend_id || !usable(backend_id, choice)) {
		backend_id = slot_backend(service->set_id, bpf_get_prandom_u32() % service->slots);
		if (!backend_id || !usable(backend_id, choice))
			return 0;
	}
	if (service->flags & LB_AFFINITY) {
		struct lb_affinity fresh = {.last_used_ns = now, .backend_id = backend_id};

		bpf_map_update_elem(&axoneme_affinity, &affinity, &fresh, BPF_ANY);
	}
	return 1;
}

/* loadBalancerSourceRanges: asked for clients from outside only. */
static __always_inline int source_allowed(const struct lb_service *service, const struct address *client)
{
	struct lb_source_key key = {.prefix_length = 160, .set_id = service->set_id};

	if (!(service->flags & LB_SOURCE_RANGES))
		return 1;
	copy_words(&key.address, client, sizeof(key.address));
	return bpf_map_lookup_elem(&axoneme_lb_source, &key) != 0;
}

#endif
