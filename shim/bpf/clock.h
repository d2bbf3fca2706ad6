// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * CLOCK_MONOTONIC at the resolution of the kernel's tick, which is enough for lifetimes of seconds. The kernel's
 * own coarse clock moves with each tick only, and jiffies, which cost one load, say when that was: so one packet
 * of each tick asks the clock, the others read what it noted. A processor that sees the two out of step is a
 * tick behind.
 */
#ifndef AXONEME_CLOCK_H
#define AXONEME_CLOCK_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

static __u64 noted_tick;
static __u64 noted_ns;

static __always_inline __u64 coarse_now(void)
{
	__u64 tick = bpf_jiffies64(), now;

	if (*(volatile __u64 *)&noted_tick == tick)
		return *(volatile __u64 *)&noted_ns;
	now = bpf_ktime_get_coarse_ns();
	*(volatile __u64 *)&noted_ns = now;
	*(volatile __u64 *)&noted_tick = tick;
	return now;
}

#endif
