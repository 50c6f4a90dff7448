package main

import (
	"fmt"
	"time"
)

// turn is how long one system is measured at a time; iperf3 takes whole seconds.
const turn = time.Second

// metric is one thing measured.
type metric struct {
	work     string // what the systems do
	unit     string
	decimals int
	less     bool // less is better
}

func (m metric) String() string { return m.work + ", " + m.unit }

const (
	forward  = "client to server"
	backward = "server to client"
)

func throughputOf(streams int, way string) metric {
	return metric{fmt.Sprintf("TCP, %s, %s", plural(streams, "stream"), way), "Gbit/s", 2, false}
}

func cpuOf(streams int, way string) metric {
	return metric{fmt.Sprintf("TCP, %s, %s", plural(streams, "stream"), way), "CPU-s/GiB", 2, true}
}

func requestsOf(conns int, unit string) metric {
	return metric{fmt.Sprintf("requests of %d B, %s", messageSize, plural(conns, "connection")), unit, 0, unit != perSecond}
}

func floodOf(size int) metric {
	return metric{fmt.Sprintf("UDP, %d B, flood", size), "kpps arrived", 1, false}
}

func keptOf(size int) metric {
	return metric{fmt.Sprintf("UDP, %d B, the most with at most %g %% lost", size, 100*mostLost), "kpps", 1, false}
}

var (
	connections = metric{fmt.Sprintf("new connections, %d at a time", callers), perSecond, 0, false}
	sustained   = metric{fmt.Sprintf("new connections, %d at a time, the last of %.0f s", callers, long.Seconds()), perSecond, 0, false}
)

const perSecond = "1/s"

func plural(n int, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// goal is what Culvert wants to reach against another system: a ratio of what each gives.
type goal struct {
	metric metric
	to     string  // name of a system
	ratio  float64 // at least; at most where less is better
	ci     bool    // the 95 % interval of the median has to reach it, not the median
}

// goals of the system that the ratio is of.
var goals = map[string][]goal{
	farName: {
		{metric: throughputOf(1, forward), to: wireguardName, ratio: 1.6},
		{metric: throughputOf(1, backward), to: wireguardName, ratio: 1.6},
		{metric: throughputOf(4, forward), to: wireguardName, ratio: 1.6},
		{metric: throughputOf(4, backward), to: wireguardName, ratio: 1.6},
		{metric: throughputOf(64, forward), to: wireguardName, ratio: 1.8},
		{metric: throughputOf(64, backward), to: wireguardName, ratio: 1.8},
		{metric: requestsOf(1, p50), to: wireguardName, ratio: 1},
		{metric: requestsOf(1, p99), to: wireguardName, ratio: 1},
		{metric: requestsOf(32, perSecond), to: wireguardName, ratio: 1.4},
		{metric: floodOf(1200), to: wireguardName, ratio: 2},
		{metric: floodOf(64), to: wireguardName, ratio: 2},
		{metric: connections, to: wireguardName, ratio: 1.3},
		{metric: sustained, to: wireguardName, ratio: 1.3},
	},
	nearName: {
		{metric: throughputOf(1, forward), to: vethName, ratio: 0.97, ci: true},
		{metric: requestsOf(1, p50), to: vethName, ratio: 1.1},
		{metric: requestsOf(1, p99), to: vethName, ratio: 1.1},
		{metric: requestsOf(32, p50), to: vethName, ratio: 1.1},
		{metric: connections, to: nftName, ratio: 1},
		{metric: sustained, to: nftName, ratio: 1},
	},
}

// ahead of each of these on every row.
var rivals = map[string][]string{
	farName:  {tailscaleName, via6Name, nebulaName},
	nearName: {haproxyName},
}

// memoryGoals bound what a process ever has resident, MiB.
var memoryGoals = map[string]float64{tunnelMemory: 64, agentMemory: 128}

const (
	tunnelMemory = "culvert tunnel"
	agentMemory  = "culvert agent"
)

const (
	p50 = "p50 µs"
	p99 = "p99 µs"
)

// Names of systems.
const (
	vethName      = "veth"
	nftName       = "nftables"
	haproxyName   = "HAProxy"
	wireguardName = "WireGuard"
	tailscaleName = "Tailscale"
	via6Name      = "Tailscale 4via6"
	nebulaName    = "Nebula"
	farName       = "endpoint, other node"
	nearName      = "endpoint, same node"
)
