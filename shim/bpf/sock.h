// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a socket believes to talk to, and what it really talks to. axoneme_sockets holds both ways:
 *
 *	{cookie, backend, SOCKET_REAL}      => frontend, as the program named it: for getpeername and recvmsg
 *	{cookie, frontend, SOCKET_BELIEVED} => backend: datagrams of a socket that is not connected stay on
 *					       one backend as packets of one flow do (QUIC needs it)
 */
#ifndef AXONEME_SOCK_H
#define AXONEME_SOCK_H

#include "address.h"
#include "lb.h"
#include "nodemaps.h"

/* The network namespace of the node: there, and only there, a loopback address is one of the node's own. The
 * loader sets it; 0: unknown. */
const volatile __u64 node_netns_cookie = 0;

/* A socket's call, in our terms. `address` and `port_be` are what the program named, then what becomes of
 * them. */
struct call {
	struct address address;
	__u64 cookie;
	__u64 netns_cookie;
	__be16 port_be;
	__u8 protocol;
	__u8 keep; /* 1: unconnected datagrams, which stay on a backend */
	__u8 pad[4];
};

#define CALL_LEAVE 0  /* no service of ours */
#define CALL_CHANGE 1 /* `address` and `port_be` are a backend's */
#define CALL_REFUSE 2 /* a service without backends */

static __always_inline const struct lb_service *find_frontend(const struct call *call, struct address *frontend)
{
	const struct node_config *node;

	copy_words(frontend, &call->address, sizeof(*frontend));
	if (means_own_host(frontend)) {
		if (!node_netns_cookie || call->netns_cookie != node_netns_cookie)
			return NULL;
		node = node_config();
		if (!node)
			return NULL;
		copy_words(frontend, holds_ipv4(&call->address) ? &node->ipv4 : &node->ipv6, sizeof(*frontend));
	}
	return find_service(frontend, call->port_be, call->protocol, LB_INSIDE);
}

static __always_inline void set_socket_key(struct socket_key *key, const struct call *call,
					   const struct address *address, __be16 port_be, __u8 side)
{
	key->cookie = call->cookie;
	copy_words(&key->address, address, sizeof(key->address));
	key->port_be = port_be;
	key->side = side;
}

/* So that answers of the backend show the frontend. Nothing to do when they are the same. */
static __always_inline void remember_frontend(const struct call *call, const struct lb_choice *choice)
{
	struct socket_key key = {};
	struct socket_entry entry = {.set_id = choice->set_id, .backend_id = choice->backend_id};

	if (equal_addresses(&choice->backend.address, &call->address) && choice->backend.port_be == call->port_be)
		return;
	set_socket_key(&key, call, &choice->backend.address, choice->backend.port_be, SOCKET_REAL);
	copy_words(&entry.address, &call->address, sizeof(entry.address));
	entry.port_be = call->port_be;
	bpf_map_update_elem(&axoneme_sockets, &key, &entry, BPF_ANY);
}

static __always_inline void remember_backend(const struct call *call, const struct lb_choice *choice)
{
	struct socket_key key = {};
	struct socket_entry entry = {.set_id = choice->set_id, .backend_id = choice->backend_id};

	set_socket_key(&key, call, &call->address, call->port_be, SOCKET_BELIEVED);
	copy_words(&entry.address, &choice->backend.address, sizeof(entry.address));
	entry.port_be = choice->backend.port_be;
	bpf_map_update_elem(&axoneme_sockets, &key, &entry, BPF_ANY);
}

/* The backend that this socket's datagrams to the frontend went to before, while it is there: its number may
 * have become another's, so address and port count too. */
static __always_inline int known_backend(const struct call *call, __u32 set_id, struct lb_choice *choice)
{
	struct socket_key key = {};
	const struct socket_entry *entry;

	set_socket_key(&key, call, &call->address, call->port_be, SOCKET_BELIEVED);
	entry = bpf_map_lookup_elem(&axoneme_sockets, &key);
	if (!entry || entry->set_id != set_id || !usable(entry->backend_id, choice))
		return 0;
	if (!equal_addresses(&entry->address, &choice->backend.address) ||
	    entry->port_be != choice->backend.port_be)
		return 0;
	choice->set_id = set_id;
	/* The way back may have been evicted; finding it keeps it from that. */
	set_socket_key(&key, call, &choice->backend.address, choice->backend.port_be, SOCKET_REAL);
	if (!bpf_map_lookup_elem(&axoneme_sockets, &key))
		remember_frontend(call, choice);
	return 1;
}

static __always_inline int new_backend(const struct call *call, const struct lb_service *service,
				       const struct address *frontend, struct lb_choice *choice)
{
	struct lb_client client = {.frontend_port_be = call->port_be, .protocol = call->protocol, .socket = 1};

	/* Affinity goes by namespace. A source port is not known yet: Maglev's hash takes the socket's number. */
	client.address.halves[0] = call->netns_cookie;
	client.port_be = (__be16)(call->cookie ^ call->cookie >> 16 ^ call->cookie >> 32);
	copy_words(&client.frontend, frontend, sizeof(client.frontend));
	if (!choose_backend(service, &client, choice))
		return 0;
	/* No socket of one family talks to the other. */
	if (holds_ipv4(&choice->backend.address) != holds_ipv4(&call->address))
		return 0;
	remember_frontend(call, choice);
	if (call->keep)
		remember_backend(call, choice);
	return 1;
}

__noinline int call_service(struct call *call)
{
	const struct lb_service *service;
	struct lb_choice choice = {};
	struct address frontend = {};

	if (!call)
		return CALL_LEAVE;
	service = find_frontend(call, &frontend);
	if (!service || service->flags & LB_NOT_SOCKET)
		return CALL_LEAVE;
	if (!(call->keep && known_backend(call, service->set_id, &choice)) &&
	    !new_backend(call, service, &frontend, &choice))
		return CALL_REFUSE;
	copy_words(&call->address, &choice.backend.address, sizeof(call->address));
	call->port_be = choice.backend.port_be;
	return CALL_CHANGE;
}

/* Turns a backend in `call` into the frontend that the program named. Returns 1 when it was one. */
__noinline int show_frontend(struct call *call)
{
	struct socket_key key = {};
	const struct socket_entry *entry;

	if (!call)
		return 0;
	set_socket_key(&key, call, &call->address, call->port_be, SOCKET_REAL);
	entry = bpf_map_lookup_elem(&axoneme_sockets, &key);
	if (!entry)
		return 0;
	copy_words(&call->address, &entry->address, sizeof(call->address));
	call->port_be = entry->port_be;
	return 1;
}

#endif
