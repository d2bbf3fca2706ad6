// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The judgement on a packet of an endpoint, or of the node itself: conntrack, identity, policy, event.
 *
 *   judge_packet()   known connection that goes on: passes at once
 *                    else judge_slowly(): related error? -> judged again under new policy -> passes or not
 *                                         nothing known: identity -> policy -> a new connection
 *
 * The identity of a peer is looked up where it is used: for new connections and changed policy. A packet's
 * direction (`packet->key.direction`) is that of the program which judges it.
 */
#ifndef AXONEME_JUDGE_H
#define AXONEME_JUDGE_H

#include <linux/pkt_cls.h>

#include "common.h"
#include "events.h"
#include "identity.h"
#include "policy.h"
#include "ct.h"

#define GOES_ON TC_ACT_UNSPEC /* the packet passes; what follows on the hook runs */

/* 1: none, 2: low, 3: medium, 4: maximum (AggregationLevel). The loader may set it before the load. */
const volatile __u32 aggregation_level = AGGREGATION_MEDIUM;

#define TURNED_TO_PROXY 1 /* subject.turned: the proxy has the packet's connection */

/* For whom a packet is judged, and what is known of the packet besides its bytes. */
struct subject {
	__u64 now;	  /* CLOCK_MONOTONIC, coarse */
	__u32 identity;	  /* of the endpoint */
	__u32 generation; /* of its policy; read before the policy is, since writers switch that first */
	__u32 carried;	  /* the peer's identity when it came with the packet, 0: its address says */
	__u16 endpoint_id;
	__u8 flags;	 /* of endpoint_entry */
	__u8 turned; /* CT_TRANSLATED: the packet was translated; afterwards: its connection is, TURNED_TO_PROXY */
};

/* Not zeroed as a whole. */
struct judgement {
	struct report report; /* from begin_report() on */
	struct decision decision;
};

static __always_inline __u32 aggregation_of(__u8 endpoint_flags)
{
	__u32 own = (endpoint_flags & ENDPOINT_AGGREGATION) >> ENDPOINT_AGGREGATION_SHIFT;

	return own ? own : aggregation_level;
}

static __always_inline void report(struct __sk_buff *skb, const struct packet *packet, struct judgement *j,
				   __u8 event_type, __u8 verdict)
{
	j->report.event_type = event_type;
	j->report.verdict = verdict;
	emit(skb, packet, &j->report);
}

static __always_inline int drop(struct __sk_buff *skb, const struct packet *packet, struct judgement *j, __u8 reason)
{
	count_verdict(j->report.hook, reason, skb->len);
	count_endpoint(j->report.endpoint_id, j->report.hook, reason, skb->len);
	j->report.drop_reason = reason;
	report(skb, packet, j, EVENT_DROP, VERDICT_DROPPED);
	return TC_ACT_SHOT;
}

static __always_inline int pass(struct __sk_buff *skb, __u8 hook, __u16 endpoint_id)
{
	count_verdict(hook, 0, skb->len);
	count_endpoint(endpoint_id, hook, 0, skb->len);
	return GOES_ON;
}

static __always_inline const struct address *peer_of(const struct ct_key *tuple)
{
	return tuple->direction == EGRESS ? &tuple->destination : &tuple->source;
}

/* Before the first thing that may say something about the packet. */
static __always_inline void begin_report(struct judgement *j, const struct packet *packet,
					 const struct subject *subject)
{
	__builtin_memset(&j->report, 0, sizeof(j->report));
	j->report.time_ns = bpf_ktime_get_boot_ns();
	j->report.hook = packet->key.direction;
	j->report.direction = packet->key.direction;
	j->report.policy_generation = subject->generation;
	j->report.identity = subject->identity;
	j->report.endpoint_id = subject->endpoint_id;
}

/* Drops a packet before or after its judgement. */
__noinline int refuse(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject, __u8 reason)
{
	struct judgement j;

	if (!packet || !subject)
		return TC_ACT_SHOT;
	begin_report(&j, packet, subject);
	return drop(skb, packet, &j, reason);
}

/* A trace at `point` outside of a judgement. */
__noinline int trace(struct __sk_buff *skb, const struct packet *packet, const struct subject *subject,
		     __u32 peer_identity, __u8 point)
{
	struct judgement j;

	if (!packet || !subject)
		return 0;
	begin_report(&j, packet, subject);
	j.report.peer_identity = peer_identity;
	j.report.trace_point = point;
	report(skb, packet, &j, EVENT_TRACE, VERDICT_FORWARDED);
	return 0;
}

/* Says what policy decided, and for a denial that is enforced drops. */
static __always_inline int enforce(struct __sk_buff *skb, const struct packet *packet, struct judgement *j)
{
	const struct decision *decision = &j->decision;

	j->report.cookie = decision->cookie;
	j->report.match_type = decision->match_type;
	j->report.drop_reason = decision->audit ? 0 : decision->reason;
	if (decision->audit)
		j->report.flags |= FLAG_AUDIT;
	if (!decision->reason)
		report(skb, packet, j, EVENT_POLICY_VERDICT,
		       decision->proxy_port_be ? VERDICT_REDIRECTED : VERDICT_FORWARDED);
	else
		report(skb, packet, j, EVENT_POLICY_VERDICT, decision->audit ? VERDICT_AUDIT : VERDICT_DROPPED);
	return decision->reason && !decision->audit ? drop(skb, packet, j, decision->reason) : GOES_ON;
}

/* The trace of a packet that passes. `proxy_port_be`: of its connection; packets to the endpoint come from there. */
static __always_inline void report_passed(struct __sk_buff *skb, const struct packet *packet, struct judgement *j,
					  int audit, __be16 proxy_port_be)
{
	__u8 verdict = audit ? VERDICT_AUDIT : VERDICT_FORWARDED;

	if (proxy_port_be && j->report.hook == EGRESS) {
		j->report.trace_point = TRACE_TO_PROXY;
		verdict = VERDICT_REDIRECTED;
	}
	report(skb, packet, j, EVENT_TRACE, verdict);
}

static __always_inline __u8 audit_flags(const struct decision *decision)
{
	return (decision->audit ? CT_AUDIT : 0) | (decision->audit_endpoint ? CT_AUDIT_ENDPOINT : 0);
}

/* The peer of the packet at hand. */
static __always_inline struct identity identify_sender(const struct packet *packet, const struct subject *subject)
{
	struct identity carried = {.number = subject->carried, .origin = CT_CARRIED};

	return subject->carried ? carried : identify(peer_of(&packet->key), subject->endpoint_id, subject->flags);
}

/* A packet that belongs to nothing known: identity, policy, and from then on a connection. */
static __always_inline int judge_new(struct __sk_buff *skb, const struct packet *packet, struct subject *subject,
				     struct judgement *j)
{
	struct identity peer = identify_sender(packet, subject);
	struct ct_entry entry = {};
	int verdict;

	if (!peer.number)
		return drop(skb, packet, j, DROP_INVALID_IDENTITY);
	j->report.peer_identity = peer.number;
	j->report.flags |= FLAG_REPLY_KNOWN;
	if (!decide(&packet->key, peer.number, subject->generation, subject->flags, &j->decision))
		return drop(skb, packet, j, DROP_EP_NOT_READY);
	verdict = enforce(skb, packet, j);
	if (verdict >= 0)
		return verdict;
	entry.last_seen_ns = subject->now;
	entry.policy_generation = subject->generation;
	entry.peer_identity = peer.number;
	entry.cookie = j->decision.cookie;
	entry.match_type = j->decision.match_type;
	entry.proxy_port_be = j->decision.proxy_port_be;
	entry.state = CT_NEW;
	entry.flags = audit_flags(&j->decision) | peer.origin | subject->turned;
	if (packet->key.protocol == IPPROTO_TCP && packet->tcp_flags & TCP_RST)
		entry.state = CT_CLOSING;
	if (bpf_map_update_elem(&axoneme_ct, &packet->key, &entry, BPF_ANY))
		return drop(skb, packet, j, DROP_CT_INSERTION_FAILED);
	if (entry.proxy_port_be)
		subject->turned |= TURNED_TO_PROXY;
	report_passed(skb, packet, j, j->decision.audit, entry.proxy_port_be);
	return pass(skb, j->report.hook, subject->endpoint_id);
}

/*
 * The peer of a connection that is judged again: the identity that it has now. One that was learned from a
 * name stays while policy knows it; one that came with the packets stays when this packet carries none.
 */
static __always_inline struct identity identify_again(const struct ct_entry *entry, const struct ct_key *original,
						      const struct subject *subject, __u32 relation)
{
	struct identity kept = {.number = entry->peer_identity, .origin = CT_CARRIED};

	if (relation == RELATION_ORIGINAL && subject->carried)
		kept.number = subject->carried;
	else if (!(entry->flags & CT_CARRIED))
		kept = identify(peer_of(original), subject->endpoint_id, subject->flags);
	return kept;
}

/* Policy changed since the connection was judged: its original tuple is judged again, whoever sent this
 * packet. */
static __always_inline int judge_again(struct __sk_buff *skb, const struct packet *packet,
				       const struct subject *subject, struct judgement *j, struct ct_entry *entry,
				       const struct ct_key *original, __u32 relation)
{
	struct identity peer = {.number = entry->peer_identity, .origin = entry->flags & CT_LEARNED};

	j->decision.found = 0;
	if (peer.origin && !decide(original, peer.number, subject->generation, subject->flags, &j->decision))
		return drop(skb, packet, j, DROP_EP_NOT_READY);
	if (!j->decision.found) {
		peer = identify_again(entry, original, subject, relation);
		if (!peer.number)
			return drop(skb, packet, j, DROP_INVALID_IDENTITY);
		if (!decide(original, peer.number, subject->generation, subject->flags, &j->decision))
			return drop(skb, packet, j, DROP_EP_NOT_READY);
	}
	entry->peer_identity = peer.number;
	entry->cookie = j->decision.cookie;
	entry->match_type = j->decision.match_type;
	entry->proxy_port_be = j->decision.proxy_port_be;
	entry->flags = (entry->flags & ~(CT_AUDIT | CT_AUDIT_ENDPOINT | CT_LEARNED | CT_CARRIED)) |
		       audit_flags(&j->decision) | peer.origin;
	if (j->decision.reason && !j->decision.audit) {
		entry->state = CT_CUT;
		entry->cut_reason = j->decision.reason;
	} else if (entry->state == CT_CUT) {
		entry->state = entry->flags & CT_REPLY_SEEN ? CT_ESTABLISHED : CT_NEW;
	}
	/* Last, so that no other CPU takes the entry for judged before it is. */
	entry->policy_generation = subject->generation;
	if (relation != RELATION_RELATED)
		j->report.peer_identity = peer.number;
	return enforce(skb, packet, j);
}

/* One packet of a connection in each window of the time that passes between renewals of its entry. */
static __always_inline int is_due(const struct ct_entry *entry, __u64 now)
{
	__u64 seen = entry->last_seen_ns;

	return (__s64)(now - seen) > (__s64)NSEC_PER_SEC && now / TRACE_WINDOW_NS != seen / TRACE_WINDOW_NS;
}

static __always_inline int worth_a_trace(const struct ct_entry *entry, __u32 relation, const struct packet *packet,
					 const struct subject *subject)
{
	__u32 level = aggregation_of(subject->flags);

	if (level == AGGREGATION_NONE || (level == AGGREGATION_LOW && packet->key.direction == INGRESS))
		return 1;
	if (relation == RELATION_RELATED)
		return 1;
	if (packet->key.protocol == IPPROTO_TCP && packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
		return 1;
	if (relation == RELATION_REPLY && !(entry->flags & CT_REPLY_SEEN))
		return 1;
	return level == AGGREGATION_MEDIUM && is_due(entry, subject->now);
}

static __always_inline __u8 turned_of(const struct ct_entry *entry)
{
	return (entry->flags & CT_TRANSLATED) | (entry->proxy_port_be ? TURNED_TO_PROXY : 0);
}

/* A packet of a connection, a reply to it, or an error about it. */
static __always_inline int judge_known(struct __sk_buff *skb, const struct packet *packet, struct subject *subject,
				       struct judgement *j, struct ct_entry *entry, const struct ct_key *original,
				       __u32 relation)
{
	int verdict, traced = worth_a_trace(entry, relation, packet, subject);

	j->report.flags |= FLAG_REPLY_KNOWN;
	j->report.peer_identity = entry->peer_identity;
	j->report.cookie = entry->cookie;
	j->report.match_type = entry->match_type;
	if (relation == RELATION_REPLY) {
		j->report.flags |= FLAG_REPLY;
		j->report.direction = original->direction;
	} else if (relation == RELATION_RELATED) {
		j->report.flags |= FLAG_RELATED;
		j->report.peer_identity = subject->carried;
		if (!subject->carried)
			j->report.peer_identity = cached_identity(peer_of(&packet->key));
	}
	if (entry->policy_generation != subject->generation ||
	    (entry->flags & CT_AUDIT_ENDPOINT && !(subject->flags & ENDPOINT_AUDIT))) {
		verdict = judge_again(skb, packet, subject, j, entry, original, relation);
		if (verdict >= 0)
			return verdict;
	} else if (entry->state == CT_CUT) {
		return drop(skb, packet, j, entry->cut_reason);
	}
	if (relation == RELATION_ORIGINAL && subject->turned & ~entry->flags)
		entry->flags |= CT_TRANSLATED;
	subject->turned = turned_of(entry);
	advance(entry, relation, packet, subject->now);
	if (traced) {
		if (entry->flags & CT_AUDIT)
			j->report.flags |= FLAG_AUDIT;
		report_passed(skb, packet, j, entry->flags & CT_AUDIT, entry->proxy_port_be);
	}
	return pass(skb, j->report.hook, subject->endpoint_id);
}

/*
 * What judge_packet() does not let pass at once. `connection`: what find_connection() found, `key` the original
 * tuple. A function for the sake of its own stack. Not one that is verified on its own: before 6.4 such a
 * function could not give a map the keys that its arguments point to.
 */
static __noinline int judge_slowly(struct __sk_buff *skb, const struct packet *packet, struct subject *subject,
				   struct connection *connection)
{
	struct ct_entry *entry = connection->entry;
	struct judgement j;

	begin_report(&j, packet, subject);
	if (entry && opens_anew(entry, connection->relation, packet))
		return judge_new(skb, packet, subject, &j);
	if (!entry && packet->icmp_error && packet->l4_offset) {
		entry = find_related(skb, &connection->key, packet, subject->now);
		connection->relation = RELATION_RELATED;
	}
	if (!entry)
		return judge_new(skb, packet, subject, &j);
	return judge_known(skb, packet, subject, &j, entry, &connection->key, connection->relation);
}

/*
 * Most packets: the connection is up, was judged under today's policy, and neither its entry nor the packet
 * leaves anything to say or to change. What this lets pass, judge_known() would, without a trace.
 */
static __always_inline int goes_on(const struct ct_entry *entry, __u32 relation, const struct packet *packet,
				   const struct subject *subject)
{
	__u32 level = aggregation_of(subject->flags);
	__u8 wanted = relation == RELATION_REPLY ? CT_REPLY_SEEN : 0;
	__u8 flags, state;

	/* The generation first: judge_again() writes it last. */
	if (!short_way || *(const volatile __u32 *)&entry->policy_generation != subject->generation)
		return 0;
	state = *(const volatile __u8 *)&entry->state;
	flags = *(const volatile __u8 *)&entry->flags;
	if (state != CT_ESTABLISHED && (wanted || state != CT_NEW))
		return 0;
	if ((flags & (wanted | CT_FIN_ORIGINAL | CT_FIN_REPLY)) != wanted || subject->turned & ~flags)
		return 0;
	if (flags & CT_AUDIT_ENDPOINT && !(subject->flags & ENDPOINT_AUDIT))
		return 0;
	if (level != AGGREGATION_MAXIMUM &&
	    (level == AGGREGATION_NONE || (level == AGGREGATION_LOW && packet->key.direction == INGRESS) ||
	     (level == AGGREGATION_MEDIUM && is_due(entry, subject->now))))
		return 0;
	return packet->key.protocol != IPPROTO_TCP || !(packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST));
}

/* `connection`: what find_connection() found for the packet. */
static __always_inline int judge_found(struct __sk_buff *skb, const struct packet *packet, struct subject *subject,
				       struct connection *connection)
{
	struct ct_entry *entry = connection->entry;

	if (!entry || !goes_on(entry, connection->relation, packet, subject)) {
		if (connection->relation != RELATION_REPLY)
			connection->key = packet->key;
		return judge_slowly(skb, packet, subject, connection);
	}
	renew(entry, subject->now);
	subject->turned = turned_of(entry);
	return pass(skb, packet->key.direction, subject->endpoint_id);
}

/* A parsed packet of which the endpoint's policy decides. Returns GOES_ON or TC_ACT_SHOT; counted and
 * reported. The first fragment must be remembered before. */
static __always_inline int judge_packet(struct __sk_buff *skb, const struct packet *packet, struct subject *subject)
{
	struct connection connection;

	find_connection(&connection, &packet->key, subject->now);
	return judge_found(skb, packet, subject, &connection);
}

/* Bytes to a tuple. Returns 0, a drop reason, or PASS_UNJUDGED. */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *packet, __u16 endpoint_id, __u8 hook)
{
	if (parse_common(skb, packet, endpoint_id, hook))
		return 0;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->key.direction = hook;
	packet->key.endpoint_id = endpoint_id;
	return parse(skb, packet);
}

#endif
