// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Copies to and from packets. The compiler copies single bytes when it cannot see how a packet is aligned,
 * and a processor that then loads a word waits until the bytes are stored. An IP header lies at a multiple
 * of four (NET_IP_ALIGN); the Ethernet header before it does not.
 */
#ifndef AXONEME_WORDS_H
#define AXONEME_WORDS_H

#include <linux/types.h>

typedef __u32 __attribute__((may_alias)) packet_word;
typedef __u16 __attribute__((may_alias)) packet_half;

/* `size` is a constant, even. */
static __always_inline void copy_words(void *to, const void *from, __u32 size)
{
#pragma unroll
	for (__u32 i = 0; i < size / 4; i++)
		((packet_word *)to)[i] = ((const packet_word *)from)[i];
	if (size % 4)
		((packet_half *)to)[size / 2 - 1] = ((const packet_half *)from)[size / 2 - 1];
}

static __always_inline void copy_mac(void *to, const void *from)
{
#pragma unroll
	for (int i = 0; i < 3; i++)
		((packet_half *)to)[i] = ((const packet_half *)from)[i];
}

#endif
