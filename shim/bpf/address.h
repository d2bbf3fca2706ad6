// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Addresses of 16 bytes, for programs that see no skb and so do not include parse.h. */
#ifndef AXONEME_ADDRESS_H
#define AXONEME_ADDRESS_H

#include <bpf/bpf_endian.h>

#include "structs.h"

static __always_inline void set_ipv4(struct address *address, __be32 word)
{
	address->words[0] = 0;
	address->words[1] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = word;
}

static __always_inline int holds_ipv4(const struct address *address)
{
	return (address->words[0] | address->words[1] | (address->words[2] ^ bpf_htonl(0xffff))) == 0;
}

static __always_inline int equal_addresses(const struct address *one, const struct address *other)
{
	return ((one->words[0] ^ other->words[0]) | (one->words[1] ^ other->words[1]) |
		(one->words[2] ^ other->words[2]) | (one->words[3] ^ other->words[3])) == 0;
}

/* 127.0.0.0/8 and ::1, and the unspecified addresses, which a socket takes for its own host. */
static __always_inline int means_own_host(const struct address *address)
{
	if (holds_ipv4(address))
		return !address->words[3] || bpf_ntohl(address->words[3]) >> 24 == 127;
	return (address->words[0] | address->words[1] | address->words[2]) == 0 &&
	       (address->words[3] & bpf_htonl(~1U)) == 0;
}

#endif
