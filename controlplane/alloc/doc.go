// Package alloc decides which address, block and tag number comes next. It is pure: it looks at what is taken and answers;
// who asks writes the answer down in the same transaction.
//
// A subnet is filled from both ends. Blocks (api.BlockBits) lent to nodes come from the bottom, so that a node's workloads
// share one prefix in its peers' AllowedIPs. Single addresses (endpoints, load balancers, workloads bound to no node or to
// one that found no block) come from the top, and the topmost block is never lent: so every subnet has room for endpoints.
package alloc
