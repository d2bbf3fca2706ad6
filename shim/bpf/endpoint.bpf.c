// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The two programs of an endpoint's host interface.
 *
 *   axoneme_from_ep   tcx ingress of the host veth: packets from the endpoint, egress policy
 *   axoneme_to_ep     tcx egress of the host veth: packets to the endpoint, ingress policy
 *
 *   parse -> [ARP, neighbour discovery pass] -> source address -> locked? -> conntrack -> [goes on: pass]
 *         -> identity -> policy -> event
 *
 * The identity of a peer is looked up where it is used: for new connections and changed policy. The
 * program judges and reports; it never changes a packet. Whatever it does not understand is dropped with a
 * reason.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "consts.h"
#include "structs.h"
#include "maps.h"
#include "events.h"
#include "parse.h"
#include "common.h"
#include "identity.h"
#include "policy.h"
#include "ct.h"

/* Not zeroed as a whole: most packets need `packet` only. */
struct judgement {
	struct packet packet;
	struct report report; /* from begin_report() on */
	struct decision decision;
	__u32 generation; /* of the endpoint's policy */
	__u8 endpoint_flags;
	void *policy;
	__u64 now;
};

static __always_inline void report(struct __sk_buff *skb, struct judgement *j, __u8 event_type, __u8 verdict)
{
	j->report.event_type = event_type;
	j->report.verdict = verdict;
	emit(skb, &j->packet, &j->report);
}

static __always_inline int drop(struct __sk_buff *skb, struct judgement *j, __u8 reason)
{
	count_verdict(j->report.hook, reason, skb->len);
	j->report.drop_reason = reason;
	report(skb, j, EVENT_DROP, VERDICT_DROPPED);
	return TC_ACT_SHOT;
}

static __always_inline int pass(struct __sk_buff *skb, __u8 hook)
{
	count_verdict(hook, 0, skb->len);
	return TC_ACT_OK;
}

static __always_inline int source_is_own(const struct packet *packet, const struct endpoint_entry *endpoint)
{
	const struct address *source = &packet->key.source;
	struct address own;

	if (packet->flags & FLAG_IPV6) {
		__builtin_memcpy(&own, endpoint->ipv6, 16);
		return !is_zero(&own) && same_words(&own, source);
	}
	__builtin_memcpy(&own, endpoint->ipv4, 4);
	return own.words[0] && own.words[0] == source->words[3];
}

static __always_inline const struct address *peer_of(const struct ct_key *tuple)
{
	return tuple->direction == EGRESS ? &tuple->destination : &tuple->source;
}

/* Says what policy decided, and for a denial that is enforced drops. Returns a verdict of tc, or -1:
 * it passes. */
static __always_inline int enforce(struct __sk_buff *skb, struct judgement *j)
{
	const struct decision *decision = &j->decision;

	j->report.cookie = decision->cookie;
	j->report.match_type = decision->match_type;
	j->report.drop_reason = decision->audit ? 0 : decision->reason;
	if (decision->audit)
		j->report.flags |= FLAG_AUDIT;
	if (!decision->reason)
		report(skb, j, EVENT_POLICY_VERDICT, VERDICT_FORWARDED);
	else
		report(skb, j, EVENT_POLICY_VERDICT, decision->audit ? VERDICT_AUDIT : VERDICT_DROPPED);
	return decision->reason && !decision->audit ? drop(skb, j, decision->reason) : -1;
}

static __always_inline __u8 audit_flags(const struct decision *decision)
{
	return (decision->audit ? CT_AUDIT : 0) | (decision->audit_endpoint ? CT_AUDIT_ENDPOINT : 0);
}

/* A packet that belongs to nothing known: identity, policy, and from then on a connection. */
static __always_inline int judge_new(struct __sk_buff *skb, struct judgement *j)
{
	struct identity peer = identify(peer_of(&j->packet.key), j->packet.key.endpoint_id);
	struct ct_entry entry = {};
	int verdict;

	if (!peer.number)
		return drop(skb, j, DROP_INVALID_IDENTITY);
	j->report.peer_identity = peer.number;
	j->report.flags |= FLAG_REPLY_KNOWN;
	decide(j->policy, &j->packet.key, peer.number, j->endpoint_flags, &j->decision);
	verdict = enforce(skb, j);
	if (verdict >= 0)
		return verdict;
	entry.last_seen_ns = j->now;
	entry.policy_generation = j->report.policy_generation;
	entry.peer_identity = peer.number;
	entry.cookie = j->decision.cookie;
	entry.match_type = j->decision.match_type;
	entry.state = CT_NEW;
	entry.flags = audit_flags(&j->decision) | (peer.learned ? CT_LEARNED : 0);
	if (j->packet.key.protocol == IPPROTO_TCP && j->packet.tcp_flags & TCP_RST)
		entry.state = CT_CLOSING;
	if (bpf_map_update_elem(&axoneme_ct, &j->packet.key, &entry, BPF_ANY))
		return drop(skb, j, DROP_CT_INSERTION_FAILED);
	report(skb, j, EVENT_TRACE, j->decision.audit ? VERDICT_AUDIT : VERDICT_FORWARDED);
	return pass(skb, j->report.hook);
}

/*
 * Policy changed since the connection was judged: its original tuple is judged again, whoever sent this
 * packet, with the identity that the peer has now. A connection made under a learned name keeps that
 * identity while policy knows it.
 */
static __always_inline int judge_again(struct __sk_buff *skb, struct judgement *j,
				       struct connection *connection)
{
	struct ct_entry *entry = connection->entry;
	__u8 learned = entry->flags & CT_LEARNED;
	struct identity peer = {.number = entry->peer_identity, .learned = learned};

	j->decision.found = 0;
	if (learned)
		decide(j->policy, &connection->key, peer.number, j->endpoint_flags, &j->decision);
	if (!j->decision.found) {
		peer = identify(peer_of(&connection->key), connection->key.endpoint_id);
		if (!peer.number)
			return drop(skb, j, DROP_INVALID_IDENTITY);
		decide(j->policy, &connection->key, peer.number, j->endpoint_flags, &j->decision);
	}
	entry->peer_identity = peer.number;
	entry->cookie = j->decision.cookie;
	entry->match_type = j->decision.match_type;
	entry->flags = (entry->flags & ~(CT_AUDIT | CT_AUDIT_ENDPOINT | CT_LEARNED)) | audit_flags(&j->decision) |
		       (peer.learned ? CT_LEARNED : 0);
	if (j->decision.reason && !j->decision.audit) {
		entry->state = CT_CUT;
		entry->cut_reason = j->decision.reason;
	} else if (entry->state == CT_CUT) {
		entry->state = entry->flags & CT_REPLY_SEEN ? CT_ESTABLISHED : CT_NEW;
	}
	/* Last, so that no other CPU takes the entry for judged before it is. */
	entry->policy_generation = j->report.policy_generation;
	if (connection->relation != RELATION_RELATED)
		j->report.peer_identity = peer.number;
	return enforce(skb, j);
}

static __always_inline int worth_a_trace(const struct connection *connection, const struct packet *packet)
{
	if (connection->relation == RELATION_RELATED)
		return 1;
	if (packet->key.protocol == IPPROTO_TCP && packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
		return 1;
	return connection->relation == RELATION_REPLY && !(connection->entry->flags & CT_REPLY_SEEN);
}

/* A packet of a connection, a reply to it, or an error about it. */
static __always_inline int judge_known(struct __sk_buff *skb, struct judgement *j,
				       struct connection *connection)
{
	struct ct_entry *entry = connection->entry;
	int verdict, trace = worth_a_trace(connection, &j->packet);

	j->report.flags |= FLAG_REPLY_KNOWN;
	j->report.peer_identity = entry->peer_identity;
	j->report.cookie = entry->cookie;
	j->report.match_type = entry->match_type;
	if (connection->relation == RELATION_REPLY) {
		j->report.flags |= FLAG_REPLY;
		j->report.direction = connection->key.direction;
	} else if (connection->relation == RELATION_RELATED) {
		j->report.flags |= FLAG_RELATED;
		j->report.peer_identity = cached_identity(peer_of(&j->packet.key));
	}
	if (entry->policy_generation != j->report.policy_generation ||
	    (entry->flags & CT_AUDIT_ENDPOINT && !(j->endpoint_flags & ENDPOINT_AUDIT))) {
		verdict = judge_again(skb, j, connection);
		if (verdict >= 0)
			return verdict;
	} else if (entry->state == CT_CUT) {
		return drop(skb, j, entry->cut_reason);
	}
	advance(connection, &j->packet, j->now);
	if (trace) {
		if (entry->flags & CT_AUDIT)
			j->report.flags |= FLAG_AUDIT;
		report(skb, j, EVENT_TRACE, entry->flags & CT_AUDIT ? VERDICT_AUDIT : VERDICT_FORWARDED);
	}
	return pass(skb, j->report.hook);
}

/* Bytes to a tuple. Returns 0, a drop reason, or PASS_UNJUDGED. */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *packet, __u16 endpoint_id,
				       __u8 hook)
{
	if (parse_common(skb, packet, endpoint_id, hook))
		return 0;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->key.direction = hook;
	packet->key.endpoint_id = endpoint_id;
	return parse(skb, packet);
}

/* Before the first thing that may say something about the packet. */
static __always_inline void begin_report(struct judgement *j, const struct endpoint_entry *endpoint,
					 __u8 hook)
{
	__builtin_memset(&j->report, 0, sizeof(j->report));
	j->report.time_ns = bpf_ktime_get_boot_ns();
	j->report.hook = hook;
	j->report.direction = hook;
	if (!endpoint)
		return;
	j->report.policy_generation = j->generation;
	j->report.identity = endpoint->identity;
	j->report.endpoint_id = endpoint->endpoint_id;
}

/* Why a well-formed packet is not judged at all, or 0. Finds the policy. */
static __always_inline int admit(struct judgement *j, const struct endpoint_entry *endpoint,
				 __u32 endpoint_id, __u8 hook)
{
	if (!endpoint)
		return DROP_EP_NOT_READY;
	if (hook == EGRESS && !source_is_own(&j->packet, endpoint))
		return DROP_INVALID_SOURCE_IP;
	j->policy = bpf_map_lookup_elem(&axoneme_policy, &endpoint_id);
	return j->policy ? 0 : DROP_EP_NOT_READY;
}

/*
 * Most packets: the connection is up, was judged under today's policy, and neither its entry nor the packet
 * leaves anything to say or to change. What this lets pass, judge_known() would, without a trace.
 */
static __always_inline int goes_on(const struct connection *connection, const struct judgement *j)
{
	const struct ct_entry *entry = connection->entry;
	__u8 wanted = connection->relation == RELATION_REPLY ? CT_REPLY_SEEN : 0;
	__u8 flags, state;

	/* The generation first: judge_again() writes it last. */
	if (!short_way || *(const volatile __u32 *)&entry->policy_generation != j->generation)
		return 0;
	state = *(const volatile __u8 *)&entry->state;
	flags = *(const volatile __u8 *)&entry->flags;
	if (state != CT_ESTABLISHED && (wanted || state != CT_NEW))
		return 0;
	if ((flags & (wanted | CT_FIN_ORIGINAL | CT_FIN_REPLY)) != wanted)
		return 0;
	if (flags & CT_AUDIT_ENDPOINT && !(j->endpoint_flags & ENDPOINT_AUDIT))
		return 0;
	return j->packet.key.protocol != IPPROTO_TCP || !(j->packet.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST));
}

static __always_inline int judge(struct __sk_buff *skb, __u8 hook)
{
	struct endpoint_entry *endpoint;
	struct connection connection;
	struct judgement j;
	__u32 key = skb->ifindex;
	int reason;

	endpoint = bpf_map_lookup_elem(&axoneme_ep, &key);
	key = endpoint ? endpoint->endpoint_id : 0;
	/* Before the policy map: a writer switches the map first, then raises the generation. */
	j.generation = endpoint ? *(volatile __u32 *)&endpoint->policy_generation : 0;
	reason = read_packet(skb, &j.packet, key, hook);
	if (reason == PASS_UNJUDGED)
		return pass(skb, hook);
	if (!reason)
		reason = admit(&j, endpoint, key, hook);
	if (reason || !endpoint) {
		begin_report(&j, endpoint, hook);
		return drop(skb, &j, reason);
	}
	j.endpoint_flags = endpoint->flags;
	j.now = bpf_ktime_get_coarse_ns();
	if (j.packet.first_fragment)
		remember_fragment(&j.packet, j.now);
	find_connection(&connection, &j.packet.key, j.now);
	if (connection.entry && goes_on(&connection, &j)) {
		renew(connection.entry, j.now);
		return pass(skb, hook);
	}
	begin_report(&j, endpoint, hook);
	if (connection.relation == RELATION_ORIGINAL)
		connection.key = j.packet.key;
	if (!connection.entry && j.packet.icmp_error && j.packet.l4_offset)
		find_related(skb, &connection, &j.packet, j.now);
	if (connection.entry && !opens_anew(&connection, &j.packet))
		return judge_known(skb, &j, &connection);
	return judge_new(skb, &j);
}

SEC("tc")
int axoneme_from_ep(struct __sk_buff *skb)
{
	return judge(skb, EGRESS);
}

SEC("tc")
int axoneme_to_ep(struct __sk_buff *skb)
{
	return judge(skb, INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
