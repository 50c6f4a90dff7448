// Package agent is what runs on every node: it keeps the node at the state that its view asks for. One loop (loop.go) takes
// the latest view, compiles it into a plan and moves host, tunnel, datapath and names there; everything else only wakes it.
// It works without the control plane from the last good view on disk, and its own death interrupts no flow: the
// tunnel is another process, programs and maps are pinned.
package agent
