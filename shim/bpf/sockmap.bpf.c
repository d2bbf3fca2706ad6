// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Socket acceleration: data between two TCP sockets of this node goes from one to the other, past the stack.
 *
 *	established (sockops)	both ends are endpoints of this node, or one namespace: into axoneme_sockhash
 *	sends (sk_msg)		the first data decides: redirected when the peer's socket is known, else never
 *
 * Order is kept by going one way only: undecided, redirected, stack. A receiver reads redirected data before
 * what came through its stack, so data may change over to the stack, never back; and the first data is
 * redirected only if none came before it.
 *
 * Redirected data waits at its receiver without any limit of the kernel's: a socket that sends much before it
 * hears anything changes over to the stack too, which has windows.
 *
 * Policy: the handshake went through the endpoints' programs, which left a conntrack entry at either side.
 * While both entries live and were judged under their endpoints' present generations, data is redirected. A
 * new policy sends it back to the stack, where those programs judge it; so no policy is passed by.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "address.h"
#include "ct.h"
#include "nodemaps.h"
#include "sockmaps.h"

#define FAMILY_IPV4 2 /* AF_INET, AF_INET6: <sys/socket.h> does not go with -target bpf */
#define FAMILY_IPV6 10

/* Redirected bytes that may wait for an answer. The loader may set it. */
const volatile __u32 unanswered_bytes = 1 << 20;

#define READ_PAIR_KEY(key, ctx)                                                     \
	do {                                                                        \
		if ((ctx)->family == FAMILY_IPV4) {                                 \
			set_ipv4(&(key)->local, (ctx)->local_ip4);                  \
			set_ipv4(&(key)->remote, (ctx)->remote_ip4);                \
		} else {                                                            \
			(key)->local.words[0] = (ctx)->local_ip6[0];                \
			(key)->local.words[1] = (ctx)->local_ip6[1];                \
			(key)->local.words[2] = (ctx)->local_ip6[2];                \
			(key)->local.words[3] = (ctx)->local_ip6[3];                \
			(key)->remote.words[0] = (ctx)->remote_ip6[0];              \
			(key)->remote.words[1] = (ctx)->remote_ip6[1];              \
			(key)->remote.words[2] = (ctx)->remote_ip6[2];              \
			(key)->remote.words[3] = (ctx)->remote_ip6[3];              \
		}                                                                   \
		(key)->local_port_be = bpf_htons((__u16)(ctx)->local_port);         \
		(key)->remote_port_be = bpf_htons((__u16)bpf_ntohl((ctx)->remote_port)); \
	} while (0)

static __always_inline int stays_inside(const struct pair_key *key)
{
	return equal_addresses(&key->local, &key->remote) ||
	       (means_own_host(&key->local) && means_own_host(&key->remote));
}

/* Finds both endpoints. Returns 0 when one is not of this node, or the socket is not where its address is. */
static __always_inline int find_endpoints(const struct pair_key *key, __u64 netns_cookie, struct socket_pair *pair)
{
	const struct netns_entry *own = bpf_map_lookup_elem(&axoneme_netns, &netns_cookie);
	const struct local_entry *local, *remote;

	if (!own)
		return 0;
	local = bpf_map_lookup_elem(&axoneme_local, &key->local);
	remote = bpf_map_lookup_elem(&axoneme_local, &key->remote);
	if (!local || !remote || local->ifindex != own->ifindex)
		return 0;
	pair->local_ifindex = local->ifindex;
	pair->local_endpoint_id = local->endpoint_id;
	pair->remote_ifindex = remote->ifindex;
	pair->remote_endpoint_id = remote->endpoint_id;
	return 1;
}

/* The state goes first: a socket in the hash without one is never redirected. */
static __always_inline void take_in(struct bpf_sock_ops *ctx, __u8 active)
{
	struct socket_pair pair = {.active = active};
	__u64 netns_cookie = bpf_get_netns_cookie(ctx);
	struct pair_key key = {};

	READ_PAIR_KEY(&key, ctx);
	if (stays_inside(&key))
		key.netns_cookie = netns_cookie;
	else if (!find_endpoints(&key, netns_cookie, &pair))
		return;
	if (!bpf_map_update_elem(&axoneme_pairs, &key, &pair, BPF_ANY))
		bpf_sock_hash_update(ctx, &axoneme_sockhash, &key, BPF_ANY);
}

SEC("sockops")
int axoneme_sockops(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op, family = ctx->family;

	if (family != FAMILY_IPV4 && family != FAMILY_IPV6)
		return 1;
	if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		take_in(ctx, 1);
	else if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && !ctx->bytes_received)
		take_in(ctx, 0); /* not what came with data in its SYN, which is unread yet */
	return 1;
}

/* `side`: EGRESS at the endpoint that opened the connection, INGRESS at the other. */
static __always_inline int still_allowed(struct ct_key *key, __u8 side, __u16 endpoint_id, __u32 ifindex, __u64 now)
{
	const struct endpoint_entry *endpoint = bpf_map_lookup_elem(&axoneme_ep, &ifindex);
	struct ct_entry *entry;

	key->direction = side;
	key->endpoint_id = endpoint_id;
	entry = find_entry(key, now);
	if (!endpoint || endpoint->endpoint_id != endpoint_id || !entry || entry->state == CT_CUT ||
	    entry->state == CT_CLOSING || entry->proxy_port_be ||
	    entry->policy_generation != endpoint->policy_generation)
		return 0;
	renew(entry, now);
	return 1;
}

__noinline int may_redirect(const struct pair_key *key, const struct socket_pair *pair)
{
	__u64 now = bpf_ktime_get_ns();
	struct ct_key tuple = {.protocol = IPPROTO_TCP};
	__u32 opener_ifindex, other_ifindex;
	__u16 opener, other;

	if (!key || !pair)
		return 0;
	if (!pair->local_ifindex)
		return 1;
	opener = pair->active ? pair->local_endpoint_id : pair->remote_endpoint_id;
	other = pair->active ? pair->remote_endpoint_id : pair->local_endpoint_id;
	opener_ifindex = pair->active ? pair->local_ifindex : pair->remote_ifindex;
	other_ifindex = pair->active ? pair->remote_ifindex : pair->local_ifindex;
	copy_words(&tuple.source, pair->active ? &key->local : &key->remote, sizeof(tuple.source));
	copy_words(&tuple.destination, pair->active ? &key->remote : &key->local, sizeof(tuple.destination));
	tuple.source_port_be = pair->active ? key->local_port_be : key->remote_port_be;
	tuple.destination_port_be = pair->active ? key->remote_port_be : key->local_port_be;
	return still_allowed(&tuple, EGRESS, opener, opener_ifindex, now) &&
	       still_allowed(&tuple, INGRESS, other, other_ifindex, now);
}

/* Whoever sends has heard enough to say something. */
static __always_inline void answer_peer(const struct pair_key *peer)
{
	struct socket_pair *theirs = bpf_map_lookup_elem(&axoneme_pairs, peer);

	if (theirs && theirs->unanswered)
		theirs->unanswered = 0;
}

/* Whether `size` more bytes may wait at the receiver. */
static __always_inline int is_patient(struct socket_pair *pair, __u32 size)
{
	if (size > unanswered_bytes || pair->unanswered > unanswered_bytes - size)
		return 0;
	pair->unanswered += size;
	return 1;
}

/* Never SK_DROP: without a redirection the message takes the way through the stack. */
SEC("sk_msg")
int axoneme_sk_msg(struct sk_msg_md *msg)
{
	struct pair_key key = {}, peer = {};
	struct socket_pair *pair;

	READ_PAIR_KEY(&key, msg);
	if (stays_inside(&key))
		key.netns_cookie = bpf_get_netns_cookie(msg);
	pair = bpf_map_lookup_elem(&axoneme_pairs, &key);
	if (!pair)
		return SK_PASS;
	copy_words(&peer.local, &key.remote, sizeof(peer.local));
	copy_words(&peer.remote, &key.local, sizeof(peer.remote));
	peer.local_port_be = key.remote_port_be;
	peer.remote_port_be = key.local_port_be;
	peer.netns_cookie = key.netns_cookie;
	answer_peer(&peer);
	if (pair->state == PAIR_STACK)
		return SK_PASS;
	if (is_patient(pair, msg->size) && may_redirect(&key, pair) &&
	    bpf_msg_redirect_hash(msg, &axoneme_sockhash, &peer, BPF_F_INGRESS) == SK_PASS) {
		if (pair->state == PAIR_UNDECIDED)
			pair->state = PAIR_REDIRECTED;
	} else {
		pair->state = PAIR_STACK;
	}
	return SK_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
