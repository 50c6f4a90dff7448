// Package datapath is the agent's edge to the BPF programs of package bpf: it loads them, keeps maps and links pinned,
// moves the tables to a plan, and reads back what the programs counted. Besides bpf it alone imports cilium/ebpf.
//
// What is pinned under Config.PinPath, in a directory named after the schema's version:
//
//	maps/NAME          every map but the private ones of one load
//	programs-ID          the tail call's table of the programs loaded last
//	loads/SUM-ID/        these programs, and those private maps
//	links/PLACE-IFINDEX  the attachment of a program to an interface (tcx, Linux 6.6)
//	filters/PLACE-IFINDEX  the same before, as a filter of clsact: its program
//
// Behind each program stands a fence, a filter of clsact that drops (fence.go).
//
// So programs and maps outlive the agent: Open takes up what is there. It loads programs only where those that are pinned are not the
// very same (loads.go), and replaces them through their links, without a gap and without touching a flow. Close leaves everything,
// Remove takes it away.
//
// Where another schema's agent was before, its flows and attachments are taken over by the first Apply: takeover.go.
//
// Diffs are made against what the kernel's maps hold, never against what was applied last.
package datapath
