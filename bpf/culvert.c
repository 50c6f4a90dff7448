//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* One object: the programs share maps, and one tail calls another. */

#include "lib/kernel.h"
#include "lib/abi.h"
#include "lib/hash.h"
#include "lib/overlay.h"
#include "lib/run.h"
#include "lib/emit.h"
#include "lib/parse.h"
#include "lib/rules.h"
#include "lib/permit.h"
#include "lib/flow.h"
#include "lib/rewrite.h"
#include "lib/deliver.h"
#include "lib/answer.h"

#include "from_workload.c"
#include "from_tunnel.c"
#include "from_host.c"
#include "mark_flows.c"

/* An enum that stands in no structure leaves no BTF, and Go no names, without these. */
const volatile enum abi_version anchor_abi_version = ABI_VERSION;
const volatile enum abi_limit anchor_abi_limit = LIMIT_RULES;
const volatile enum hook anchor_hook = HOOK_NONE;
const volatile enum reason anchor_reason = REASON_NONE;
const volatile enum address_type anchor_address_type = ADDRESS_NONE;
const volatile enum view anchor_view = VIEW_NONE;
const volatile enum next anchor_next = NEXT_NONE;
const volatile enum flow_flag anchor_flow_flag = FLOW_OPENING;
const volatile enum loss anchor_loss = LOSS_EVENTS;
const volatile enum event_kind anchor_event_kind = EVENT_NONE;
const volatile enum mark_limit anchor_mark_limit = MARK_MAX;
/* Likewise structures that no map at the top holds. */
const volatile struct target anchor_target = {};
const volatile struct rule anchor_rule = {};
const volatile struct rule_set anchor_rule_set = {};
const volatile struct event anchor_event = {};
const volatile struct flow_mark anchor_flow_mark = {};
const volatile struct flow_removal anchor_flow_removal = {};

char license_text[] SEC("license") = "GPL";
