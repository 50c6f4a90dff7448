//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* One object: the programs share maps, and one tail calls another. */

#include "lib/kernel.h"
#include "lib/abi.h"
#include "lib/hash.h"
#include "lib/sum.h"
#include "lib/overlay.h"
#include "lib/key.h"
#include "lib/run.h"
#include "lib/emit.h"
#include "lib/options.h"
#include "lib/icmp.h"
#include "lib/rate.h"
#include "lib/parse.h"
#include "lib/rules.h"
#include "lib/balance.h"
#include "lib/frag.h"
#include "lib/rewrite.h"
#include "lib/nd.h"
#include "lib/extension.h"
#include "lib/ipv6.h"
#include "lib/error.h"
#include "lib/answer.h"
#include "lib/proxy.h"
#include "lib/permit.h"
#include "lib/path.h"
#include "lib/quota.h"
#include "lib/tcp.h"
#include "lib/flow.h"
#include "lib/deliver.h"
#include "lib/message.h"
#include "lib/place.h"

#include "from_workload.c"
#include "from_tunnel.c"
#include "from_host.c"
#include "mark_flows.c"
#include "set_quotas.c"
#include "set_rows.c"

/* An enum that stands in no structure leaves no BTF, and Go no names, without these. */
const volatile enum abi_version anchor_abi_version = ABI_VERSION;
const volatile enum abi_limit anchor_abi_limit = LIMIT_RULES;
const volatile enum tunnel_mark anchor_tunnel_mark = LANES;
const volatile enum probe_mark anchor_probe_mark = MARK_PROBE;
const volatile enum node_port anchor_node_port = NODE_PORT;
const volatile enum hook anchor_hook = HOOK_NONE;
const volatile enum reason anchor_reason = REASON_NONE;
const volatile enum address_type anchor_address_type = ADDRESS_NONE;
const volatile enum view anchor_view = VIEW_NONE;
const volatile enum key_bit anchor_key_bit = KEY_IPV6;
const volatile enum family anchor_family = FAMILY_IPV4;
const volatile enum eni_flag anchor_eni_flag = ENI_STRICT_LOG;
const volatile enum next anchor_next = NEXT_NONE;
const volatile enum flow_flag anchor_flow_flag = FLOW_OPENING;
const volatile enum grant_target_flag anchor_grant_target_flag = GRANT_TARGET_DRAINING;
const volatile enum service_flag anchor_service_flag = SERVICE_STICKY;
const volatile enum loss anchor_loss = LOSS_EVENTS;
const volatile enum event_kind anchor_event_kind = EVENT_NONE;
const volatile enum port_range anchor_port_range = PORT_SPARE;
const volatile enum tick anchor_tick = TICK_SHIFT;
const volatile enum tcp_state anchor_tcp_state = TCP_NONE;
const volatile enum quota_kind anchor_quota_kind = QUOTA_NONE;
const volatile enum fragment_rows anchor_fragment_rows = ROWS_NONE;
const volatile enum quota_order_kind anchor_quota_order_kind = QUOTA_SET;
const volatile enum row_table anchor_row_table = ROW_NONE;
const volatile enum row_limit anchor_row_limit = ROW_KEY;
const volatile enum mark_limit anchor_mark_limit = MARK_MAX;
const volatile enum grant_flag anchor_grant_flag = GRANT_PROXY;
const volatile enum grant_limit anchor_grant_limit = MAX_ENDPOINT_ID;
/* Likewise structures that no map at the top holds. */
const volatile struct target anchor_target = {};
const volatile struct rule anchor_rule = {};
const volatile struct rule_set anchor_rule_set = {};
const volatile struct event anchor_event = {};
const volatile struct flow_mark anchor_flow_mark = {};
const volatile struct flow_removal anchor_flow_removal = {};
const volatile struct quota_limits anchor_quota_limits = {};
const volatile struct quota_order anchor_quota_order = {};
const volatile struct row_order anchor_row_order = {};

char license_text[] SEC("license") = "GPL";
