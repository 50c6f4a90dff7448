package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log"
	"os/exec"
	"strconv"
	"strings"
)

// cost is what a program takes for a packet, ns, by the kernel's own statistics, less an empty program's.
type cost struct {
	what string
	ns   float64
}

// costs runs the benchmarks of package bpf that ask the kernel.
func costs(ctx context.Context) ([]cost, error) {
	log.Print("costs of the programs")
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run=^$", "-bench=^BenchmarkCost$", "-benchtime=1x", "./bpf")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return parseCosts(out)
}

// parseCosts reads lines as go test writes them: BenchmarkCost/WHAT-2  N  X ns/op  Y ns/run.
func parseCosts(out []byte) (all []cost, err error) {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 0 || !strings.HasPrefix(f[0], "BenchmarkCost/") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(f[0], "BenchmarkCost/"), "-")
		for i := 2; i < len(f); i++ {
			if f[i] != "ns/run" {
				continue
			}
			c := cost{what: strings.ReplaceAll(name, "_", " ")}
			if c.ns, err = strconv.ParseFloat(f[i-1], 64); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cost in:\n%s", out)
	}
	return all, nil
}
