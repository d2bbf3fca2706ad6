/* SPDX-License-Identifier: Apache-2.0 */
/* Tracing programs of `axoneme trace`, compiled on the node by BCC (probe.py). Tracepoints only.
 *
 * No kernel header is needed: fields of a tracepoint are read at the offsets that its format file names
 * (<tracepoint>_<field>, -D), fields of an sk_buff at those of the kernel's own BTF (SKB_<field>). Addresses are kept as
 * in the datapath: 16 bytes, IPv4 as ::ffff:a.b.c.d; ports in host order.
 */
struct address {
	u8 bytes[16];
};

struct event {
	u64 at_ns;
	u64 duration_ns;
	struct address source;
	struct address destination;
	u16 source_port;
	u16 destination_port;
	u32 reason; /* drops: skb_drop_reason; otherwise the new state */
	u8 protocol;
	u8 pad[7];
	char task[16];
};

struct start {
	u64 ns;
	char task[16];
};

BPF_RINGBUF_OUTPUT(events, 256);
BPF_ARRAY(lost, u64, 1);
BPF_HASH(wanted, struct address, u8, 64);
BPF_TABLE("lru_hash", u64, struct start, starts, 16384);
BPF_ARRAY(connect_us, u64, 64);
BPF_ARRAY(rtt_us, u64, 64);

#define READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)(from))
#define FIELD(to, offset) READ(to, (const char *)ctx + (offset))

static inline int chosen(struct event *event)
{
#ifdef FILTERED
	return wanted.lookup(&event->source) || wanted.lookup(&event->destination);
#else
	return 1;
#endif
}

static inline void emit(struct event *event)
{
	int zero = 0;
	u64 *count;

	event->at_ns = bpf_ktime_get_boot_ns();
	if (events.ringbuf_output(event, sizeof(*event), 0) == 0)
		return;
	count = lost.lookup(&zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

static inline void count(u64 ns, int rtt)
{
	int slot = bpf_log2l(ns / 1000);
	u64 *bucket = rtt ? rtt_us.lookup(&slot) : connect_us.lookup(&slot);

	if (bucket)
		__sync_fetch_and_add(bucket, 1);
}

/* A tracepoint with ports in host order and mapped addresses. */
#define READ_ENDS(event, tracepoint)                                      \
	FIELD((event).source, tracepoint##_saddr_v6);                     \
	FIELD((event).destination, tracepoint##_daddr_v6);                \
	FIELD((event).source_port, tracepoint##_sport);                   \
	FIELD((event).destination_port, tracepoint##_dport);              \
	(event).protocol = 6

#ifdef PROBE_CONNECTS
#define ESTABLISHED 1
#define SYN_SENT 2
int on_state(void *ctx)
{
	struct event event = {};
	struct start start = {};
	struct start *known;
	int old_state, new_state;
	u16 protocol;
	u64 socket;

	FIELD(protocol, inet_sock_set_state_protocol);
	FIELD(old_state, inet_sock_set_state_oldstate);
	FIELD(new_state, inet_sock_set_state_newstate);
	FIELD(socket, inet_sock_set_state_skaddr);
	if (protocol != 6)
		return 0;
	if (new_state == SYN_SENT) {
		start.ns = bpf_ktime_get_ns();
		bpf_get_current_comm(start.task, sizeof(start.task));
		starts.update(&socket, &start);
		return 0;
	}
	if (old_state != SYN_SENT)
		return 0;
	known = starts.lookup(&socket);
	if (!known)
		return 0;
	start = *known;
	starts.delete(&socket);
	READ_ENDS(event, inet_sock_set_state);
	if (!chosen(&event))
		return 0;
	event.duration_ns = bpf_ktime_get_ns() - start.ns;
	event.reason = new_state;
	__builtin_memcpy(event.task, start.task, sizeof(event.task));
	if (new_state == ESTABLISHED)
		count(event.duration_ns, 0);
#ifndef QUIET
	emit(&event);
#endif
	return 0;
}
#endif

#ifdef PROBE_RETRANSMITS
int on_retransmit(void *ctx)
{
	struct event event = {};
	int state;

	FIELD(state, tcp_retransmit_skb_state);
	READ_ENDS(event, tcp_retransmit_skb);
	event.reason = state;
	if (chosen(&event))
		emit(&event);
	return 0;
}
#endif

#ifdef PROBE_RTT
/* A sockaddr_in or sockaddr_in6 as a mapped address. */
static inline void read_sockaddr(const char *at, struct address *address)
{
	u16 family;

	READ(family, at);
	if (family == 2) {
		address->bytes[10] = address->bytes[11] = 0xff;
		bpf_probe_read_kernel(&address->bytes[12], 4, at + 4);
	} else {
		bpf_probe_read_kernel(address->bytes, 16, at + 8);
	}
}

int on_ack(void *ctx)
{
	struct event event = {};
	u32 srtt;

	FIELD(srtt, tcp_probe_srtt);
	read_sockaddr((const char *)ctx + tcp_probe_saddr, &event.source);
	read_sockaddr((const char *)ctx + tcp_probe_daddr, &event.destination);
	if (srtt && chosen(&event))
		count((u64)srtt * 1000, 1);
	return 0;
}
#endif

#ifdef PROBE_DROPS
static inline void read_ports(const char *at, struct event *event)
{
	u16 ports[2];

	if (event->protocol != 6 && event->protocol != 17 && event->protocol != 132)
		return;
	READ(ports, at);
	event->source_port = __builtin_bswap16(ports[0]);
	event->destination_port = __builtin_bswap16(ports[1]);
}

int on_drop(void *ctx)
{
	struct event event = {};
	const char *skb, *head, *ip;
	u16 protocol, offset;
	u8 first;

	FIELD(protocol, kfree_skb_protocol);
	FIELD(skb, kfree_skb_skbaddr);
	if (protocol != 0x0800 && protocol != 0x86dd)
		return 0;
#ifdef kfree_skb_reason
	FIELD(event.reason, kfree_skb_reason);
#endif
	READ(head, skb + SKB_head);
	READ(offset, skb + SKB_network_header);
	if (offset == 0xffff)
		return 0;
	ip = head + offset;
	READ(first, ip);
	if (first >> 4 == 4) {
		READ(event.protocol, ip + 9);
		event.source.bytes[10] = event.source.bytes[11] = 0xff;
		event.destination.bytes[10] = event.destination.bytes[11] = 0xff;
		bpf_probe_read_kernel(&event.source.bytes[12], 4, ip + 12);
		bpf_probe_read_kernel(&event.destination.bytes[12], 4, ip + 16);
		read_ports(ip + (first & 15) * 4, &event);
	} else if (first >> 4 == 6) {
		READ(event.protocol, ip + 6);
		READ(event.source, ip + 8);
		READ(event.destination, ip + 24);
		read_ports(ip + 40, &event);
	} else {
		return 0;
	}
	if (chosen(&event))
		emit(&event);
	return 0;
}
#endif
