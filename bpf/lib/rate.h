/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Rates, without locks and without retries. */
#ifndef CULVERT_RATE_H
#define CULVERT_RATE_H

/* Tests stand the clock of rates still, so that they count what passes and not how fast they are. */
const volatile __u32 rate_clock_stands = 0;
volatile __u64 rate_clock_ns = 0;

static __always_inline __u64 rate_now(void)
{
	return rate_clock_stands ? rate_clock_ns : bpf_ktime_get_boot_ns();
}

/*
 * A token bucket as one time (GCRA, ITU-T I.371): paid is until when what passed has paid for. Something of cost ns may pass
 * when that does not run ahead of now by more than burst. Whoever adds and finds too much takes it back: that may refuse
 * another at the same moment, which is at the bound too, but never lets more pass.
 */
static __always_inline bool rate_allows(__u64 *paid, __u64 now, __u64 cost, __u64 burst)
{
	__u64 until = *(volatile __u64 *)paid;

	if (until + cost > now + burst)
		return false;
	if (until < now)
		__sync_val_compare_and_swap(paid, until, now);
	until = __sync_fetch_and_add(paid, cost);
	if (until + cost <= now + burst)
		return true;
	__sync_fetch_and_add(paid, -cost);
	return false;
}

/* Takes back what was let pass and did not. */
static __always_inline void rate_refund(__u64 *paid, __u64 cost)
{
	__sync_fetch_and_add(paid, -cost);
}

enum { SECOND_NS = 1000000000 };

/* Until when what a number had of a table of rates is paid for. NULL when the table has no room. */
static __always_inline __u64 *rate_row(void *rates, __u32 number)
{
	__u64 zero = 0, *paid = bpf_map_lookup_elem(rates, &number);

	if (paid)
		return paid;
	bpf_map_update_elem(rates, &number, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(rates, &number);
}

/* May this ENI have another RST? It may not when the table of rates has no room. */
static __always_inline bool reset_allowed(__u32 eni)
{
	__u64 *paid = rate_row(&resets, eni);

	return paid && rate_allows(paid, rate_now(), SECOND_NS / LIMIT_RESETS,
				   (__u64)LIMIT_RESET_BURST * SECOND_NS / LIMIT_RESETS);
}

/* May this node's agent get another message of that node's? Likewise. */
static __always_inline bool message_allowed(__u32 node)
{
	__u64 *paid = rate_row(&messages, node);

	return paid && rate_allows(paid, rate_now(), SECOND_NS / LIMIT_MESSAGES, SECOND_NS);
}

#endif
