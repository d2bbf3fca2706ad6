// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The host's firewall: policy of endpoint 0, for packets to and from the node's own addresses.
 *
 *   axoneme_host_in    behind from_netdev, from_overlay and from_ep: packets to the node, ingress policy
 *   axoneme_host_out   before to_netdev, to_overlay and to_ep: packets of the node, egress policy
 *
 * An address of the node is one that axoneme_nodeips says it is, and any link-local IPv6 address, which on a
 * link can be nobody else's. Everything else is somebody else's packet on its way and passes. So do
 *
 *   - ARP, neighbour discovery, multicast listener discovery (parse.h): without them no address is reachable;
 *   - multicast and broadcast: no address of the node;
 *   - what the node sends on in another's name (MARK_IDENTITY): a client's packet to a remote backend and the
 *     answer to it have an address of the node, and were judged where they belong to;
 *   - tunnel packets between registered nodes, and errors about them: what they carry is judged inside;
 *   - answers of DHCP servers on the uplink: without a lease the node is gone, and with it who could mend the
 *     policy.
 *
 * Established connections need no exception: conntrack has them. Health probes of other nodes are judged like
 * everything from them (identity remote-node). A node whose policy was never written enforces nothing: it must
 * reach its control plane to get one. From then on the map is only ever replaced, and a change of policy cuts
 * what it denies.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "nodepath.h"
#include "judge.h"

#define DHCP4_SERVER 67
#define DHCP4_CLIENT 68
#define DHCP6_CLIENT 546
#define DHCP6_SERVER 547

/* UDP port of the node's tunnel, 0: none. The loader may set it before the load. */
const volatile __u16 tunnel_port_be = bpf_htons(8472);

static __always_inline int is_link_local(const struct address *address)
{
	return address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

static __always_inline int is_nodes_own(const struct address *address)
{
	return is_link_local(address) || node_ip_flags(address) & NODE_IP_OWN;
}

/* `peer`: the other node. A tunnel's source port is anything. */
static __always_inline int is_tunnel(const struct ct_key *tuple, const struct address *peer)
{
	return tunnel_port_be && tuple->protocol == IPPROTO_UDP && tuple->destination_port_be == tunnel_port_be &&
	       node_ip_flags(peer) & NODE_IP_TUNNEL_PEER;
}

static __always_inline int is_tunnel_error(struct __sk_buff *skb, const struct packet *packet)
{
	struct ct_key quote = {};

	return packet->icmp_error && packet->l4_offset && read_quote(skb, packet, &quote) &&
	       is_tunnel(&quote, &quote.destination);
}

static __always_inline int is_lease(const struct __sk_buff *skb, const struct packet *packet,
				    const struct node_config *node)
{
	__u32 server = packet->flags & FLAG_IPV6 ? DHCP6_SERVER : DHCP4_SERVER;
	__u32 client = packet->flags & FLAG_IPV6 ? DHCP6_CLIENT : DHCP4_CLIENT;

	return skb->ifindex == node->uplink_ifindex && packet->key.protocol == IPPROTO_UDP &&
	       packet->key.source_port_be == bpf_htons(server) &&
	       packet->key.destination_port_be == bpf_htons(client);
}

/* What the node cannot live without, whatever its policy says. */
static __always_inline int always_passes(struct __sk_buff *skb, const struct packet *packet,
					 const struct node_config *node, __u8 hook)
{
	if (hook == EGRESS)
		return carried_identity(skb) || is_tunnel(&packet->key, &packet->key.destination) ||
		       is_tunnel_error(skb, packet);
	return is_tunnel(&packet->key, &packet->key.source) || is_tunnel_error(skb, packet) ||
	       is_lease(skb, packet, node);
}

static __always_inline int judge_host(struct __sk_buff *skb, __u8 hook)
{
	const struct node_config *node = node_config();
	struct subject subject = {};
	struct packet packet;
	__u32 host = HOST_ENDPOINT_ID;
	int reason;

	if (!node || !(node->flags & NODE_HOST_FIREWALL))
		return GOES_ON;
	reason = read_packet(skb, &packet, HOST_ENDPOINT_ID, hook);
	if (reason == PASS_UNJUDGED ||
	    !is_nodes_own(hook == EGRESS ? &packet.key.source : &packet.key.destination))
		return GOES_ON;
	/* Before the policy map: a writer switches the map first, then raises the generation. */
	subject.generation = *(const volatile __u32 *)&node->host_policy_generation;
	subject.identity = IDENTITY_HOST;
	subject.endpoint_id = HOST_ENDPOINT_ID;
	subject.flags = node->flags & NODE_HOST_AUDIT ? ENDPOINT_AUDIT : 0;
	if (!bpf_map_lookup_elem(&axoneme_policy, &host))
		return GOES_ON;
	/* A protocol of which parse() knows nothing: rules for any port decide. */
	if (reason && reason != DROP_UNKNOWN_L4_PROTOCOL)
		return refuse(skb, &packet, &subject, reason);
	if (always_passes(skb, &packet, node, hook))
		return GOES_ON;
	subject.now = bpf_ktime_get_coarse_ns();
	if (hook == INGRESS)
		subject.carried = carried_identity(skb);
	if (packet.first_fragment)
		remember_fragment(&packet, subject.now);
	return judge_packet(skb, &packet, &subject);
}

SEC("tc")
int axoneme_host_in(struct __sk_buff *skb)
{
	return judge_host(skb, INGRESS);
}

SEC("tc")
int axoneme_host_out(struct __sk_buff *skb)
{
	return judge_host(skb, EGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
