// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The two programs of the tunnel device (VXLAN in external mode).
 *
 *   axoneme_from_overlay   tcx ingress: sender a registered node? -> VNI is the source's identity -> mark;
 *                          answers to the DNS proxy are its own (proxy.h)
 *   axoneme_to_overlay     tcx egress: the destination's node from the ipcache -> tunnel key, VNI = the
 *                          source's identity: the packet's own (mark), else its address's
 *
 * Only IP travels: no ARP, no neighbour discovery (every node's device has the same MAC address, so nobody
 * asks). Inner IP packets are never fragmented or changed; the device's MTU leaves room for the outer headers.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "nodepath.h"
#include "proxy.h"

#define TUNNEL_TTL 64

/* Numbers that only the node itself gives to its packets. */
static __always_inline int may_arrive(__u32 identity)
{
	return identity && identity < IDENTITY_LOCAL_SCOPE && identity != IDENTITY_HOST;
}

/* Returns 0 when the packet did not come through a tunnel. */
static __always_inline int read_tunnel(struct __sk_buff *skb, struct bpf_tunnel_key *key,
				       struct address *remote)
{
	if (!bpf_skb_get_tunnel_key(skb, key, sizeof(*key), 0)) {
		map_ipv4(remote, bpf_htonl(key->remote_ipv4));
		return 1;
	}
	if (bpf_skb_get_tunnel_key(skb, key, sizeof(*key), BPF_F_TUNINFO_IPV6))
		return 0;
	copy_words(remote, key->remote_ipv6, sizeof(*remote));
	return 1;
}

/* Why a packet from the tunnel is not taken, or 0. */
static __always_inline int admit_tunnel(struct __sk_buff *skb, __u32 *identity)
{
	struct bpf_tunnel_key key = {};
	struct address remote = {};

	if (!read_tunnel(skb, &key, &remote))
		return DROP_TUNNEL_KEY;
	if (!(node_ip_flags(&remote) & NODE_IP_TUNNEL_PEER))
		return DROP_ENCAPSULATION_PROHIBITED;
	if (!may_arrive(key.tunnel_id))
		return DROP_INVALID_VNI;
	*identity = key.tunnel_id;
	return 0;
}

SEC("tc")
int axoneme_from_overlay(struct __sk_buff *skb)
{
	struct packet packet;
	__u32 identity = 0;
	int reason, malformed;

	malformed = read_node_packet(skb, &packet, INGRESS);
	reason = admit_tunnel(skb, &identity);
	if (!reason)
		reason = malformed == PASS_UNJUDGED ? DROP_UNSUPPORTED_L3_PROTOCOL : malformed;
	if (reason)
		return node_drop(skb, &packet, reason, identity);
	if (packet.first_fragment)
		remember_fragment(&packet, bpf_ktime_get_coarse_ns());
	carry_identity(skb, identity);
	if (answers_proxy(node_config(), &packet, bpf_ktime_get_coarse_ns()))
		skb->mark = MARK_TO_PROXY;
	if (begins_or_ends(&packet))
		node_event(skb, &packet, TRACE_FROM_OVERLAY, 0, identity);
	return next(skb, INGRESS);
}

/* Every node's device has the same MAC address, to which the kernel sends; it would take a packet from that
 * address for one of its own that came back, so they come from another. */
static __always_inline int set_sender(struct __sk_buff *skb)
{
	const __u8 sender[6] = {0x0a, 0x61, 0x78, 0x6f, 0x00, 0x02};

	return bpf_skb_store_bytes(skb, 6, sender, sizeof(sender), 0);
}

static __always_inline int set_tunnel(struct __sk_buff *skb, const struct address *endpoint, __u32 identity)
{
	struct bpf_tunnel_key key = {.tunnel_id = identity, .tunnel_ttl = TUNNEL_TTL};

	if (is_mapped(endpoint)) {
		key.remote_ipv4 = bpf_ntohl(endpoint->words[3]);
		/* The inner packet has a checksum of its own. */
		return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX);
	}
	copy_words(key.remote_ipv6, endpoint, sizeof(*endpoint));
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6);
}

SEC("tc")
int axoneme_to_overlay(struct __sk_buff *skb)
{
	struct address endpoint = {};
	struct packet packet;
	__u32 identity;
	int reason;

	reason = read_node_packet(skb, &packet, EGRESS);
	if (reason == PASS_UNJUDGED) {
		/* The kernel's own chatter on a new device: nobody to tell, nothing to report. */
		count_verdict(EGRESS, DROP_UNSUPPORTED_L3_PROTOCOL, skb->len);
		return TC_ACT_SHOT;
	}
	identity = carried_identity(skb);
	if (!identity)
		identity = cached_identity(&packet.key.source);
	if (reason)
		return node_drop(skb, &packet, reason, identity);
	if (packet.first_fragment)
		remember_fragment(&packet, bpf_ktime_get_coarse_ns());
	if (!find_tunnel(&packet.key.destination, &endpoint))
		return node_drop(skb, &packet, DROP_NO_ENCAPSULATION_ENDPOINT, identity);
	if (set_sender(skb) ||
	    set_tunnel(skb, &endpoint, travelling(identity, packet.flags & FLAG_IPV6)))
		return node_drop(skb, &packet, DROP_TUNNEL_KEY, identity);
	if (begins_or_ends(&packet))
		node_event(skb, &packet, TRACE_TO_OVERLAY, 0, identity);
	return next(skb, EGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
