// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Maps that describe the node to its programs. */
#ifndef AXONEME_NODEMAPS_H
#define AXONEME_NODEMAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "consts.h"
#include "structs.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node_config);
} axoneme_node SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, struct address);
	__type(value, struct local_entry);
} axoneme_local SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct address);
	__type(value, struct node_ip);
} axoneme_nodeips SEC(".maps");

/* Destinations that are never masqueraded: the native routing CIDRs and the exclusions. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct ipcache_key);
	__type(value, __u8);
} axoneme_nomasq SEC(".maps");

static __always_inline const struct node_config *node_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&axoneme_node, &zero);
}

/* NODE_IP_OWN, NODE_IP_TUNNEL_PEER; 0: no node's address. */
static __always_inline __u32 node_ip_flags(const struct address *address)
{
	struct address key = *address; /* before 6.4 a look-up takes no key behind an argument */
	const struct node_ip *found = bpf_map_lookup_elem(&axoneme_nodeips, &key);

	return found ? found->flags : 0;
}

static __always_inline const struct local_entry *local_endpoint(const struct address *address)
{
	struct address key = *address;

	return bpf_map_lookup_elem(&axoneme_local, &key);
}

#endif
