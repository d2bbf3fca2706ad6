// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Load balancing of local clients at their sockets: the address is translated once, when a socket connects or
 * sends, instead of in every packet. Programs never refuse what is not a service of ours.
 *
 * A connected datagram socket keeps its backend until it connects again: the kernel asks nobody when it sends.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>

#include "sock.h"

/* bpf_set_retval for these hooks: Linux 6.1. Without it a refused call fails with EPERM. */
const volatile __u32 set_retval_known = 1;

#define PROCEED 1
#define REFUSE 0

static __always_inline int is_balanced(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static __always_inline int refuse(void)
{
	if (set_retval_known)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline void read_call4(struct bpf_sock_addr *ctx, struct call *call, __u8 keep)
{
	set_ipv4(&call->address, ctx->user_ip4);
	call->port_be = (__be16)ctx->user_port;
	call->protocol = (__u8)ctx->protocol;
	call->keep = keep;
	call->cookie = bpf_get_socket_cookie(ctx);
	call->netns_cookie = bpf_get_netns_cookie(ctx);
}

static __always_inline void read_call6(struct bpf_sock_addr *ctx, struct call *call, __u8 keep)
{
	call->address.words[0] = ctx->user_ip6[0];
	call->address.words[1] = ctx->user_ip6[1];
	call->address.words[2] = ctx->user_ip6[2];
	call->address.words[3] = ctx->user_ip6[3];
	call->port_be = (__be16)ctx->user_port;
	call->protocol = (__u8)ctx->protocol;
	call->keep = keep;
	call->cookie = bpf_get_socket_cookie(ctx);
	call->netns_cookie = bpf_get_netns_cookie(ctx);
}

static __always_inline void write_call4(struct bpf_sock_addr *ctx, const struct call *call)
{
	ctx->user_ip4 = call->address.words[3];
	ctx->user_port = call->port_be;
}

static __always_inline void write_call6(struct bpf_sock_addr *ctx, const struct call *call)
{
	ctx->user_ip6[0] = call->address.words[0];
	ctx->user_ip6[1] = call->address.words[1];
	ctx->user_ip6[2] = call->address.words[2];
	ctx->user_ip6[3] = call->address.words[3];
	ctx->user_port = call->port_be;
}

static __always_inline int translate_call4(struct bpf_sock_addr *ctx, __u8 keep)
{
	struct call call = {};
	int found;

	if (!is_balanced(ctx->protocol))
		return PROCEED;
	read_call4(ctx, &call, keep);
	found = call_service(&call);
	if (found == CALL_REFUSE)
		return refuse();
	if (found == CALL_CHANGE)
		write_call4(ctx, &call);
	return PROCEED;
}

static __always_inline int translate_call6(struct bpf_sock_addr *ctx, __u8 keep)
{
	struct call call = {};
	int found;

	if (!is_balanced(ctx->protocol))
		return PROCEED;
	read_call6(ctx, &call, keep);
	found = call_service(&call);
	if (found == CALL_REFUSE)
		return refuse();
	if (found == CALL_CHANGE)
		write_call6(ctx, &call);
	return PROCEED;
}

static __always_inline int show_peer4(struct bpf_sock_addr *ctx)
{
	struct call call = {};

	read_call4(ctx, &call, 0);
	if (show_frontend(&call))
		write_call4(ctx, &call);
	return PROCEED;
}

static __always_inline int show_peer6(struct bpf_sock_addr *ctx)
{
	struct call call = {};

	read_call6(ctx, &call, 0);
	if (show_frontend(&call))
		write_call6(ctx, &call);
	return PROCEED;
}

SEC("cgroup/connect4")
int axoneme_connect4(struct bpf_sock_addr *ctx)
{
	return translate_call4(ctx, 0);
}

SEC("cgroup/connect6")
int axoneme_connect6(struct bpf_sock_addr *ctx)
{
	return translate_call6(ctx, 0);
}

SEC("cgroup/sendmsg4")
int axoneme_sendmsg4(struct bpf_sock_addr *ctx)
{
	return translate_call4(ctx, 1);
}

SEC("cgroup/sendmsg6")
int axoneme_sendmsg6(struct bpf_sock_addr *ctx)
{
	return translate_call6(ctx, 1);
}

SEC("cgroup/recvmsg4")
int axoneme_recvmsg4(struct bpf_sock_addr *ctx)
{
	return show_peer4(ctx);
}

SEC("cgroup/recvmsg6")
int axoneme_recvmsg6(struct bpf_sock_addr *ctx)
{
	return show_peer6(ctx);
}

SEC("cgroup/getpeername4")
int axoneme_getpeername4(struct bpf_sock_addr *ctx)
{
	return show_peer4(ctx);
}

SEC("cgroup/getpeername6")
int axoneme_getpeername6(struct bpf_sock_addr *ctx)
{
	return show_peer6(ctx);
}

char _license[] SEC("license") = "Dual BSD/GPL";
