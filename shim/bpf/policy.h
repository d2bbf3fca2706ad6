// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The verdict on a tuple: two longest-prefix look-ups, for the peer's identity and for any. Higher
 * precedence wins, then the longer port block, then the entry of the identity.
 * axoneme/lib/policy/lookup.py is the same in Python.
 */
#ifndef AXONEME_POLICY_H
#define AXONEME_POLICY_H

#include "maps.h"

struct decision {
	__u32 cookie;
	__u8 reason; /* 0: allowed */
	__u8 match_type;
	__u8 found;
	__u8 audit; /* the reason is reported, the packet passes */
	__u8 audit_endpoint;
	__u8 pad;
	__be16 proxy_port_be; /* of a redirect */
};

static __always_inline __u8 match_type_of(const struct policy_entry *entry, __u8 specific)
{
	if (entry->port_bits == 0)
		return specific ? MATCH_L3_ONLY : MATCH_ALL;
	if (entry->port_bits == 8)
		return specific ? MATCH_L3_PROTOCOL : MATCH_PROTOCOL_ONLY;
	return specific ? MATCH_L3_L4 : MATCH_L4_ONLY;
}

/* An action that this program does not know denies. */
static __always_inline __u8 reason_of(const struct policy_entry *entry)
{
	if (entry->action == ACTION_ALLOW)
		return 0;
	if (entry->action == ACTION_DENY)
		return DROP_POLICY_DENY;
	if (entry->action == ACTION_REDIRECT)
		return DROP_REDIRECT_WITHOUT_PROXY;
	return DROP_NO_CONFIGURATION;
}

/* Audit covers what policy denies, not redirects: without its proxy a redirect never passes. */
static __always_inline void apply_audit(struct decision *decision, __u8 entry_flags, __u8 endpoint_flags)
{
	if (decision->reason != DROP_POLICY_DENIED && decision->reason != DROP_POLICY_DENY)
		return;
	decision->audit_endpoint = !!(endpoint_flags & ENDPOINT_AUDIT);
	decision->audit = decision->audit_endpoint || entry_flags & ENTRY_AUDIT;
}

static __noinline void decide(void *policy, const struct ct_key *tuple, __u32 identity,
				   __u8 endpoint_flags, struct decision *decision)
{
	struct policy_key key = {
		.prefix_length = 64,
		.identity = identity,
		.direction = tuple->direction,
		.protocol = tuple->protocol,
		.port_be = tuple->destination_port_be,
	};
	struct policy_entry *best, *any;
	__u8 specific = 1;

	best = bpf_map_lookup_elem(policy, &key);
	key.identity = 0;
	any = bpf_map_lookup_elem(policy, &key);
	if (any && (!best || any->precedence > best->precedence ||
		    (any->precedence == best->precedence && any->port_bits > best->port_bits))) {
		best = any;
		specific = 0;
	}
	__builtin_memset(decision, 0, sizeof(*decision));
	if (!best) {
		decision->reason = DROP_POLICY_DENIED;
		apply_audit(decision, 0, endpoint_flags);
		return;
	}
	decision->found = 1;
	decision->cookie = best->cookie;
	decision->proxy_port_be = best->action == ACTION_REDIRECT ? best->proxy_port_be : 0;
	decision->reason = reason_of(best);
	decision->match_type = match_type_of(best, specific);
	apply_audit(decision, best->flags, endpoint_flags);
}

#endif
