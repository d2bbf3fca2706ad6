// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The verdict on a tuple: two longest-prefix look-ups, for the peer's identity and for any. Higher
 * precedence wins, then the longer port block, then the entry of the identity. Answers are remembered.
 * axoneme/lib/policy/lookup.py is the same in Python.
 */
#ifndef AXONEME_POLICY_H
#define AXONEME_POLICY_H

#include <linux/in.h>

#include "maps.h"
#include "remembered.h"

struct decision {
	__u32 cookie;
	__u8 reason; /* 0: allowed */
	__u8 match_type;
	__u8 found;
	__u8 audit; /* the reason is reported, the packet passes */
	__u8 audit_endpoint;
	__u8 entry_flags;
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

/* The proxy takes what pods send by TCP and UDP; 0: there is none for this tuple. */
static __always_inline __be16 proxy_of(const struct policy_entry *entry, const struct ct_key *tuple)
{
	if (entry->action != ACTION_REDIRECT || tuple->direction != EGRESS || tuple->endpoint_id == HOST_ENDPOINT_ID ||
	    (tuple->protocol != IPPROTO_TCP && tuple->protocol != IPPROTO_UDP))
		return 0;
	return entry->proxy_port_be;
}

/* An action that this program does not know denies. */
static __always_inline __u8 reason_of(const struct policy_entry *entry, __be16 proxy_port_be)
{
	if (entry->action == ACTION_ALLOW || proxy_port_be)
		return 0;
	if (entry->action == ACTION_DENY)
		return DROP_POLICY_DENY;
	if (entry->action == ACTION_REDIRECT)
		return DROP_REDIRECT_WITHOUT_PROXY;
	return DROP_NO_CONFIGURATION;
}

/* Audit covers what policy denies, not redirects: without its proxy a redirect never passes. */
static __always_inline void apply_audit(struct decision *decision, __u8 endpoint_flags)
{
	if (decision->reason != DROP_POLICY_DENIED && decision->reason != DROP_POLICY_DENY)
		return;
	decision->audit_endpoint = !!(endpoint_flags & ENDPOINT_AUDIT);
	decision->audit = decision->audit_endpoint || decision->entry_flags & ENTRY_AUDIT;
}

/* The answer of the policy map, without audit. Returns 0 when the endpoint has none. */
static __always_inline int ask(const struct ct_key *tuple, __u32 identity, struct remembered_decision *answer)
{
	struct policy_key key = {
		.prefix_length = 64,
		.identity = identity,
		.direction = tuple->direction,
		.protocol = tuple->protocol,
		.port_be = tuple->destination_port_be,
	};
	__u32 endpoint_id = tuple->endpoint_id;
	void *policy = bpf_map_lookup_elem(&axoneme_policy, &endpoint_id);
	struct policy_entry *best, *any;
	__u8 specific = 1;

	if (!policy)
		return 0;
	best = bpf_map_lookup_elem(policy, &key);
	key.identity = 0;
	any = bpf_map_lookup_elem(policy, &key);
	if (any && (!best || any->precedence > best->precedence ||
		    (any->precedence == best->precedence && any->port_bits > best->port_bits))) {
		best = any;
		specific = 0;
	}
	answer->found = !!best;
	answer->cookie = best ? best->cookie : 0;
	answer->proxy_port_be = best ? proxy_of(best, tuple) : 0;
	answer->reason = best ? reason_of(best, answer->proxy_port_be) : DROP_POLICY_DENIED;
	answer->match_type = best ? match_type_of(best, specific) : 0;
	answer->entry_flags = best ? best->flags : 0;
	return 1;
}

static __always_inline void take_answer(struct decision *decision, const struct remembered_decision *answer)
{
	decision->found = answer->found;
	decision->cookie = answer->cookie;
	decision->proxy_port_be = answer->proxy_port_be;
	decision->reason = answer->reason;
	decision->match_type = answer->match_type;
	decision->entry_flags = answer->entry_flags;
}

static __always_inline int ask_anew(const struct ct_key *tuple, __u32 identity, struct decision *decision)
{
	struct remembered_decision answer = {};

	if (!ask(tuple, identity, &answer))
		return 0;
	take_answer(decision, &answer);
	return 1;
}

/* By the policy map, or by what it said lately under this generation. */
static __always_inline int answer_to(const struct ct_key *tuple, __u32 identity, __u32 generation,
				     struct decision *decision)
{
	__u64 subject = (__u64)generation << 32 | identity, epoch = current_epoch();
	__u64 question = (__u64)tuple->endpoint_id << 32 | (__u32)tuple->destination_port_be << 16 |
			 tuple->direction << 8 | tuple->protocol;
	__u32 place = place_of(question, subject), seen;
	struct remembered_decision *slot = bpf_map_lookup_elem(&axoneme_decided, &place);
	int asked;

	if (!slot || !remembers)
		return ask_anew(tuple, identity, decision);
	seen = begin_reading(&slot->writes);
	if (seen && slot->epoch == epoch && slot->subject == subject && slot->question == question) {
		take_answer(decision, slot);
		if (is_whole(&slot->writes, seen))
			return 1;
	}
	if (!take_slot(&slot->writes))
		return ask_anew(tuple, identity, decision);
	asked = ask(tuple, identity, slot);
	slot->subject = asked ? subject : 0;
	slot->question = asked ? question : 0;
	slot->epoch = epoch;
	take_answer(decision, slot);
	give_slot(&slot->writes);
	return asked;
}

/* What an endpoint's policy of one generation says; the generation was read before. Returns 0 when the endpoint
 * has no policy. */
static __noinline int decide(const struct ct_key *tuple, __u32 identity, __u32 generation, __u8 endpoint_flags,
			     struct decision *decision)
{
	__builtin_memset(decision, 0, sizeof(*decision));
	if (!answer_to(tuple, identity, generation, decision))
		return 0;
	apply_audit(decision, endpoint_flags);
	return 1;
}

#endif
