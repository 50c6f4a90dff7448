package api

import (
	"fmt"
	"math/bits"
)

// validate checks the ranges; 0 is no bound.
func (c Caps) validate() *Error {
	switch {
	case c.MaxConnectionsPerSecond > MaxCapConnectionsPerSecond:
		return capRange("maxConnectionsPerSecond", uint64(c.MaxConnectionsPerSecond), 1, MaxCapConnectionsPerSecond)
	case c.MaxFlows > MaxCapFlows:
		return capRange("maxFlows", uint64(c.MaxFlows), 1, MaxCapFlows)
	case c.MaxBitsPerSecond > MaxCapBitsPerSecond, c.MaxBitsPerSecond > 0 && c.MaxBitsPerSecond < MinCapBitsPerSecond:
		return capRange("maxBitsPerSecond", c.MaxBitsPerSecond, MinCapBitsPerSecond, MaxCapBitsPerSecond)
	}
	return nil
}

func capRange(field string, n, low, high uint64) *Error {
	return invalid(field, fmt.Sprintf("give %d to %d, or 0 for no bound", low, high), "%d is out of range", n)
}

// Over are the caps with what a request changes of them.
func (r *CapsRequest) Over(c Caps) Caps {
	if r == nil {
		return c
	}
	if r.MaxConnectionsPerSecond != nil {
		c.MaxConnectionsPerSecond = *r.MaxConnectionsPerSecond
	}
	if r.MaxFlows != nil {
		c.MaxFlows = *r.MaxFlows
	}
	if r.MaxBitsPerSecond != nil {
		c.MaxBitsPerSecond = *r.MaxBitsPerSecond
	}
	return c
}

// Share is a part of the caps: so many of all parts, rounded up. A bound never becomes none.
func (c Caps) Share(parts, all int) Caps {
	if parts >= all {
		return c
	}
	share := func(n uint64) uint64 {
		if n == 0 {
			return 0
		}
		high, low := bits.Mul64(n, uint64(parts)) // parts count weights, so that the product is large
		low, carry := bits.Add64(low, uint64(all)-1, 0)
		part, _ := bits.Div64(high+carry, low, uint64(all))
		return max(1, part)
	}
	return Caps{
		MaxConnectionsPerSecond: uint32(share(uint64(c.MaxConnectionsPerSecond))),
		MaxFlows:                uint32(share(uint64(c.MaxFlows))),
		MaxBitsPerSecond:        share(c.MaxBitsPerSecond),
	}
}

// CapsOf are those in force for a connection.
func CapsOf(s *Service, c *Connection) Caps {
	if c.Caps != nil {
		return *c.Caps
	}
	return s.Caps
}
