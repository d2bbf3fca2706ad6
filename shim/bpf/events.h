// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Metrics and events: what the datapath says about a packet. */
#ifndef AXONEME_EVENTS_H
#define AXONEME_EVENTS_H

#include <bpf/bpf_endian.h>

#include "maps.h"
#include "words.h"

static __always_inline void count(__u32 slot, __u32 length)
{
	struct metric_entry *metric = bpf_map_lookup_elem(&axoneme_metrics, &slot);

	if (!metric)
		return;
	/* One writer per CPU, but a softirq can interrupt a process context. */
	metric->packets += 1;
	metric->octets += length;
}

static __always_inline void count_verdict(__u8 hook, __u8 reason, __u32 length)
{
	count((hook - 1) * METRIC_REASONS + reason, length);
}

static __always_inline void count_endpoint_drop(__u16 endpoint_id, __u8 hook, __u8 reason, __u32 length)
{
	struct endpoint_drop_key key = {.endpoint_id = endpoint_id, .direction = hook, .reason = reason};
	struct metric_entry first = {.packets = 1, .octets = length};
	struct metric_entry *metric = bpf_map_lookup_elem(&axoneme_epdrops, &key);

	if (!metric) {
		bpf_map_update_elem(&axoneme_epdrops, &key, &first, BPF_NOEXIST);
		return;
	}
	metric->packets += 1;
	metric->octets += length;
}

/* The counters of one endpoint; `reason` 0: forwarded. */
static __always_inline void count_endpoint(__u16 endpoint_id, __u8 hook, __u8 reason, __u32 length)
{
	__u32 slot = endpoint_id * 4 + (hook - 1) * 2 + !!reason;
	struct metric_entry *metric = bpf_map_lookup_elem(&axoneme_epstats, &slot);

	if (!metric)
		return;
	metric->packets += 1;
	metric->octets += length;
	if (reason)
		count_endpoint_drop(endpoint_id, hook, reason, length);
}

static __always_inline void copy_macs(struct __sk_buff *skb, struct axoneme_event *event)
{
	void *data = (void *)(long)skb->data, *data_end = (void *)(long)skb->data_end;

	if (data + 12 <= data_end) {
		copy_mac(event->destination_mac, data);
		copy_mac(event->source_mac, data + 6);
		return;
	}
	if (bpf_skb_load_bytes(skb, 0, event->destination_mac, 6))
		__builtin_memset(event->destination_mac, 0, 6);
	if (bpf_skb_load_bytes(skb, 6, event->source_mac, 6))
		__builtin_memset(event->source_mac, 0, 6);
}

/* A record that finds no room is counted, never waited for. */
__noinline int emit(struct __sk_buff *skb, const struct packet *packet, const struct report *report)
{
	struct axoneme_event *event;
	__u8 from_endpoint;

	if (!packet || !report)
		return 0;
	from_endpoint = report->hook == EGRESS;
	event = bpf_ringbuf_reserve(&axoneme_events, sizeof(*event), 0);
	if (!event) {
		count(METRIC_LOST_EVENTS, skb->len);
		return 0;
	}
	event->time_ns = report->time_ns;
	event->source_identity = from_endpoint ? report->identity : report->peer_identity;
	event->destination_identity = from_endpoint ? report->peer_identity : report->identity;
	__builtin_memcpy(event->source_ip, &packet->key.source, 16);
	__builtin_memcpy(event->destination_ip, &packet->key.destination, 16);
	event->source_port = bpf_ntohs(packet->key.source_port_be);
	event->destination_port = bpf_ntohs(packet->key.destination_port_be);
	event->protocol = packet->key.protocol;
	event->tcp_flags = packet->tcp_flags;
	event->event_type = report->event_type;
	event->sub_type = 0;
	if (report->event_type == EVENT_DROP)
		event->sub_type = report->drop_reason;
	else if (report->event_type == EVENT_TRACE && report->trace_point)
		event->sub_type = report->trace_point;
	else if (report->event_type == EVENT_TRACE && report->endpoint_id == HOST_ENDPOINT_ID)
		event->sub_type = from_endpoint ? TRACE_FROM_HOST : TRACE_TO_HOST;
	else if (report->event_type == EVENT_TRACE)
		event->sub_type = from_endpoint ? TRACE_TO_STACK : TRACE_TO_ENDPOINT;
	event->endpoint_id = report->endpoint_id;
	event->direction = report->direction;
	event->flags = report->flags | packet->flags;
	event->verdict = report->verdict;
	event->match_type = report->match_type;
	event->drop_reason = report->drop_reason;
	event->pad = 0;
	event->cookie = report->cookie;
	event->ifindex = skb->ifindex;
	event->length = skb->len;
	event->policy_generation = report->policy_generation;
	copy_macs(skb, event);
	event->pad2 = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif
