// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* From an address to the identity of the peer: what this endpoint learned from DNS, then exact
 * addresses, then prefixes, whose results are remembered. */
#ifndef AXONEME_IDENTITY_H
#define AXONEME_IDENTITY_H

#include "maps.h"
#include "remembered.h"

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

static __always_inline __u32 identity_of_prefix(const struct ipcache_key *key)
{
	const struct ipcache_entry *entry = bpf_map_lookup_elem(&axoneme_ipcache, key);

	return entry ? entry->identity : 0;
}

/* By the trie, or by what it said lately. */
static __always_inline __u32 identity_around(const struct address *address, const struct ipcache_key *key)
{
	__u32 place = place_of(address->halves[0], address->halves[1]), seen, identity;
	struct remembered_identity *slot = bpf_map_lookup_elem(&axoneme_ipseen, &place);
	__u64 epoch = current_epoch();

	if (!slot || !remembers)
		return identity_of_prefix(key);
	seen = begin_reading(&slot->writes);
	if (seen && slot->epoch == epoch && slot->address.halves[0] == address->halves[0] &&
	    slot->address.halves[1] == address->halves[1]) {
		identity = slot->identity;
		if (is_whole(&slot->writes, seen))
			return identity;
	}
	if (!take_slot(&slot->writes))
		return identity_of_prefix(key);
	identity = identity_of_prefix(key);
	slot->address.halves[0] = address->halves[0];
	slot->address.halves[1] = address->halves[1];
	slot->epoch = epoch;
	slot->identity = identity;
	give_slot(&slot->writes);
	return identity;
}

__noinline int cached_identity(const struct address *address)
{
	struct ipcache_key key = {.prefix_length = 128};
	struct ipcache_entry *entry;
	struct address wanted;

	if (!address)
		return 0;
	__builtin_memcpy(&wanted, address, 16); /* before 6.4 a look-up takes no key behind an argument */
	entry = bpf_map_lookup_elem(&axoneme_ipexact, &wanted);
	if (entry)
		return entry->identity;
	__builtin_memcpy(key.address, &wanted, 16);
	return identity_around(&wanted, &key);
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
