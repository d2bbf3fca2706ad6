// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Maps of socket acceleration. Sizes are defaults; shim/maps/sockets.py says the same. */
#ifndef AXONEME_SOCKMAPS_H
#define AXONEME_SOCKMAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "consts.h"
#include "structs.h"

#define PAIR_UNDECIDED 0  /* socket_pair.state: nothing sent yet */
#define PAIR_REDIRECTED 1 /* data goes straight to the peer's socket */
#define PAIR_STACK 2	  /* data goes through the stack, for ever */

/* A socket by its own tuple. Connections inside one network namespace have its cookie, since several namespaces
 * may use the same addresses on lo; those between endpoints of this node have 0. */
struct pair_key {
	struct address local;
	struct address remote;
	__be16 local_port_be;
	__be16 remote_port_be;
	__u8 pad[4];
	__u64 netns_cookie;
};

/* What the socket sends. Both ifindexes are 0 inside one namespace, where no policy is. */
struct socket_pair {
	__u32 local_ifindex; /* node's sides of the endpoints' interfaces */
	__u32 remote_ifindex;
	__u16 local_endpoint_id;
	__u16 remote_endpoint_id;
	__u8 state;  /* PAIR_UNDECIDED ... */
	__u8 active; /* 1: this socket opened the connection */
	__u8 pad[2];
	__u32 unanswered; /* bytes sent since the peer last sent something */
};

/* Which endpoint a network namespace belongs to: the word of a socket for its address is not enough. */
struct netns_entry {
	__u32 ifindex;
	__u16 endpoint_id;
	__u8 pad[2];
};

/* The value is a socket; user space reads its cookie. The kernel takes out what is closed. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, struct pair_key);
	__type(value, __u64);
} axoneme_sockhash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct pair_key);
	__type(value, struct socket_pair);
} axoneme_pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64); /* cookie */
	__type(value, struct netns_entry);
} axoneme_netns SEC(".maps");

#endif
