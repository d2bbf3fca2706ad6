// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Forwards at the driver what is only passing through: packets of connections between clients outside and
 * backends on other nodes, and the answers. The tc programs translate the first packet of a connection (they
 * choose the backend and the port) and leave their entries in axoneme_nat; either path continues a connection.
 * Whatever is not plain goes on to them: this program never drops. What it forwards is counted, and no event
 * tells of it: connections are reported where they begin and end.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "common.h"
#include "nodemaps.h"
#include "xdp.h"

#define FAMILY_IPV4 2 /* AF_INET, AF_INET6: <sys/socket.h> does not go with -target bpf */
#define FAMILY_IPV6 10
#define TCP_TURNING_POINTS (TCP_SYN | TCP_FIN | TCP_RST)

/* Fills `packet` with a plain one. Returns 0 for any other. A hop limit that ends here is the stack's
 * business, it tells the sender. */
static __always_inline int take_plain(const void *data, const void *data_end, struct packet *packet)
{
	const struct ethhdr *ethernet = data;
	__u32 size = data_end - data;

	if (data + ETH_HEADER + IPV4_HEADER > data_end)
		return 0;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return take_ipv4(data, data_end, packet, 0, INGRESS, size) &&
		       ((const struct iphdr *)(data + ETH_HEADER))->ttl > 1;
	if (ethernet->h_proto != bpf_htons(ETH_P_IPV6) || data + ETH_HEADER + IPV6_HEADER > data_end)
		return 0;
	return take_ipv6(data, data_end, packet, 0, INGRESS, size) &&
	       ((const struct ipv6hdr *)(data + ETH_HEADER))->hop_limit > 1;
}

static __always_inline int is_for(const void *data, const void *data_end, const __u8 *mac)
{
	const packet_half *destination = data, *own = (const packet_half *)mac;

	if (data + ETH_HEADER > data_end)
		return 0;
	return ((destination[0] ^ own[0]) | (destination[1] ^ own[1]) | (destination[2] ^ own[2])) == 0;
}

/* Both ends change for what passes through; what stays on this node keeps its sender. */
static __always_inline int passes_through(const struct packet *packet, const struct nat_entry *to)
{
	return !(to->flags & (NAT_HAIRPIN | NAT_MASQUERADE | NAT_DSR_CLIENT)) &&
	       !same_words(&to->source, &packet->key.source) &&
	       !same_words(&to->destination, &packet->key.destination);
}

/* Where the packet goes after translation. Returns 0 when the stack has to say: no neighbour yet, too large,
 * no route, another kind of interface. */
static __always_inline int find_way(struct xdp_md *ctx, const struct packet *packet, const struct nat_entry *to,
				    struct bpf_fib_lookup *way)
{
	way->l4_protocol = packet->key.protocol;
	way->sport = to->source_port_be;
	way->dport = to->destination_port_be;
	way->tot_len = packet->end - ETH_HEADER;
	way->ifindex = ctx->ingress_ifindex;
	if (packet->flags & FLAG_IPV6) {
		way->family = FAMILY_IPV6;
		copy_words(way->ipv6_src, &to->source, sizeof(to->source));
		copy_words(way->ipv6_dst, &to->destination, sizeof(to->destination));
	} else {
		way->family = FAMILY_IPV4;
		way->ipv4_src = to->source.words[3];
		way->ipv4_dst = to->destination.words[3];
	}
	return bpf_fib_lookup(ctx, way, sizeof(*way), 0) == BPF_FIB_LKUP_RET_SUCCESS;
}

/* Packet pointers are made anew: calls of functions may end their validity. */
static __always_inline int rewrite(struct xdp_md *ctx, const struct packet *packet, const struct nat_entry *to,
				   const struct bpf_fib_lookup *way)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	int failed;

	if (data + ETH_HEADER > data_end)
		return -1;
	if (packet->flags & FLAG_IPV6)
		failed = rewrite_plain6(data, data_end, &packet->key, to);
	else
		failed = rewrite_plain4(data, data_end, &packet->key, to);
	if (failed)
		return -1;
	copy_mac(data, way->dmac);
	copy_mac(data + 6, way->smac);
	return 0;
}

static __always_inline void count(const struct packet *packet)
{
	__u32 index = (INGRESS - 1) * METRIC_REASONS;
	struct metric_entry *metric = bpf_map_lookup_elem(&axoneme_metrics, &index);

	if (!metric)
		return;
	metric->packets++;
	metric->octets += packet->end;
}

SEC("xdp")
int axoneme_xdp(struct xdp_md *ctx)
{
	const void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	const struct node_config *node = node_config();
	struct bpf_fib_lookup way = {};
	struct packet packet = {};
	struct nat_entry *to;
	__u64 now;

	/* A firewall of the node judges these packets too, on the tc programs' path. */
	if (!node || node->flags & NODE_HOST_FIREWALL || !is_for(data, data_end, node->uplink_mac) ||
	    !take_plain(data, data_end, &packet) || packet.tcp_flags & TCP_TURNING_POINTS)
		return XDP_PASS;
	now = bpf_ktime_get_ns();
	to = find_translation(&packet.key, NAT_FROM_NET, 0, now);
	if (!to || !passes_through(&packet, to) || !find_way(ctx, &packet, to, &way))
		return XDP_PASS;
	/* Never to an endpoint's interface: its policy is judged there, for packets of the stack. */
	if (way.ifindex != ctx->ingress_ifindex && way.ifindex != node->uplink_ifindex)
		return XDP_PASS;
	advance_translation(to, &packet, now);
	if (rewrite(ctx, &packet, to, &way))
		return XDP_PASS;
	count(&packet);
	return way.ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(way.ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
