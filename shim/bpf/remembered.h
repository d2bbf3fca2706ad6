// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What a processor found out lately, in front of the slow look-ups: the identity of an address (a trie of
 * prefixes) and the decision on a question to a policy (two tries behind a map of maps). A slot's place is a
 * hash of its key; what falls on the same place replaces it. So few slots that they stay in the processor's
 * own cache: with four times as many a flow of which nothing is remembered takes longer.
 *
 * A slot counts only under the epoch that was current before its look-up began. The shim sets another epoch after
 * each write to the maps behind, so what was found before a write, or during it, is never used once the write
 * is over. A decision counts under one generation of the endpoint besides: who reads a new generation never
 * gets an answer of an earlier one, even before the epoch changes.
 *
 * Slots are per processor, and programs of one processor do not interrupt each other, save where soft
 * interrupts can be preempted: `writes` is odd while somebody fills the slot, and changes with each filling.
 */
#ifndef AXONEME_REMEMBERED_H
#define AXONEME_REMEMBERED_H

#include "maps.h"

static __always_inline __u64 current_epoch(void)
{
	__u32 zero = 0;
	const __u64 *epoch = bpf_map_lookup_elem(&axoneme_epoch, &zero);

	return epoch ? *(const volatile __u64 *)epoch : 0;
}

static __always_inline __u32 place_of(__u64 one, __u64 other)
{
	__u64 mixed = (one * 0x9e3779b97f4a7c15ULL) ^ other;

	mixed ^= mixed >> 32;
	return mixed * 0xd6e8feb86659fd93ULL >> (64 - REMEMBERED_BITS);
}

/* To be read before a slot's content; 0: somebody fills it. */
static __always_inline __u32 begin_reading(const __u32 *writes)
{
	__u32 seen = *(const volatile __u32 *)writes;

	asm volatile("" ::: "memory");
	return seen & 1 ? 0 : seen;
}

/* Whether the slot's content was one filling. */
static __always_inline int is_whole(const __u32 *writes, __u32 seen)
{
	asm volatile("" ::: "memory");
	return *(const volatile __u32 *)writes == seen;
}

/* Takes a slot, before the look-up whose result goes there. An atomic operation with a result, so the look-up
 * cannot overtake the reading of the epoch. Returns 0 when somebody else has the slot. */
static __always_inline int take_slot(__u32 *writes)
{
	__u32 seen = *(const volatile __u32 *)writes;

	return !(seen & 1) && __sync_val_compare_and_swap(writes, seen, seen + 1) == seen;
}

static __always_inline void give_slot(__u32 *writes)
{
	asm volatile("" ::: "memory");
	*(volatile __u32 *)writes += 1;
}

#endif
