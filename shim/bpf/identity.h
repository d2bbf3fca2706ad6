// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* From an address to the identity of the peer: what this endpoint learned from DNS, then exact
 * addresses, then prefixes. */
#ifndef AXONEME_IDENTITY_H
#define AXONEME_IDENTITY_H

#include "maps.h"

struct identity {
	__u32 number; /* 0: unknown */
	__u32 origin; /* flags of ct_entry: CT_LEARNED, CT_CARRIED */
};

__noinline int learned_identity(const struct address *address, __u32 endpoint_id)
{
	struct learned_key key = {.endpoint_id = endpoint_id};
	struct learned_entry *entry;

	if (!address)
		return 0;
	__builtin_memcpy(key.address, address, 16);
	entry = bpf_map_lookup_elem(&axoneme_learned, &key);
	if (!entry || entry->expiry_ns < bpf_ktime_get_boot_ns())
		return 0;
	return entry->identity;
}

__noinline int cached_identity(const struct address *address)
{
	struct ipcache_key key = {.prefix_length = 128};
	struct ipcache_entry *entry;

	if (!address)
		return 0;
	__builtin_memcpy(key.address, address, 16); /* before 6.4 a look-up takes no key behind an argument */
	entry = bpf_map_lookup_elem(&axoneme_ipexact, key.address);
	if (!entry)
		entry = bpf_map_lookup_elem(&axoneme_ipcache, &key);
	return entry ? entry->identity : 0;
}

static __always_inline struct identity identify(const struct address *address, __u32 endpoint_id,
						__u8 endpoint_flags)
{
	struct identity identity = {.origin = CT_LEARNED};

	if (endpoint_flags & ENDPOINT_LEARNED)
		identity.number = learned_identity(address, endpoint_id);
	if (identity.number)
		return identity;
	identity.number = cached_identity(address);
	identity.origin = 0;
	return identity;
}

#endif
