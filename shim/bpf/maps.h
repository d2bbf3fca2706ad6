// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The maps, pinned by name by the loader. Sizes are defaults; shim/maps/layout.py says the same. */
#ifndef AXONEME_MAPS_H
#define AXONEME_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "consts.h"
#include "structs.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* ifindex */
	__type(value, struct endpoint_entry);
} axoneme_ep SEC(".maps");

/* The inner map is declared by sizes: clang 14 leaves types inside __array as forward declarations. */
struct policy_map {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(struct policy_key));
	__uint(value_size, sizeof(struct policy_entry));
};

/* No inner map: the endpoint is locked. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4096);
	__uint(key_size, sizeof(__u32)); /* endpoint id */
	__uint(value_size, sizeof(__u32));
	__array(values, struct policy_map);
} axoneme_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct learned_key);
	__type(value, struct learned_entry);
} axoneme_learned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 512000);
	__type(key, struct address);
	__type(value, struct ipcache_entry);
} axoneme_ipexact SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 512000);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_entry);
} axoneme_ipcache SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64); /* another one after each write to axoneme_ipcache or a policy */
} axoneme_epoch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << REMEMBERED_BITS);
	__type(key, __u32); /* place_of() */
	__type(value, struct remembered_identity);
} axoneme_ipseen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << REMEMBERED_BITS);
	__type(key, __u32); /* place_of() */
	__type(value, struct remembered_decision);
} axoneme_decided SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct ct_key);
	__type(value, struct ct_entry);
} axoneme_ct SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_entry);
} axoneme_frag SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, METRIC_SLOTS);
	__type(key, __u32); /* (direction - 1) * 256 + reason; METRIC_LOST_EVENTS */
	__type(value, struct metric_entry);
} axoneme_metrics SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4 * METRIC_ENDPOINTS);
	__type(key, __u32); /* endpoint number * 4 + (direction - 1) * 2 + dropped */
	__type(value, struct metric_entry);
} axoneme_epstats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct endpoint_drop_key);
	__type(value, struct metric_entry);
} axoneme_epdrops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} axoneme_events SEC(".maps");

/* Lifetimes without a packet. The loader may set them before the load. */
const volatile __u32 ct_established_seconds = 8000;
const volatile __u32 ct_datagram_seconds = 60;
const volatile __u32 ct_new_seconds = 60;
const volatile __u32 ct_closing_seconds = 10;
const volatile __u32 ct_cut_seconds = 300;
const volatile __u32 fragment_seconds = 30;

/* 0: every packet goes the long way, which decides the same. For tests. */
const volatile __u32 short_way = 1;

/* 0: what was found is looked up again, see remembered.h. For tests. */
const volatile __u32 remembers = 1;

/* Not used: they carry the layout of structs without a typed map into the object's BTF. */
const struct axoneme_event *axoneme_layout_event SEC(".rodata");
const struct policy_key *axoneme_layout_policy_key SEC(".rodata");
const struct policy_entry *axoneme_layout_policy_entry SEC(".rodata");

#endif
