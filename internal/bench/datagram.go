package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
)

// A datagram begins with the number of its flood, eight bytes. One with questionBit set asks how many of that flood came.
const questionBit = 1 << 63

const (
	datagramBatch = 32                     // sent or received by one system call
	datagramTick  = 500 * time.Microsecond // between batches of a paced flood
	answerTime    = 10 * time.Second
	askAgain      = 100 * time.Millisecond
)

// drain counts datagrams by flood and answers questions about it, until the socket is closed.
func drain(c net.PacketConn) {
	p := ipv4.NewPacketConn(c)
	if u, ok := c.(*net.UDPConn); ok {
		_ = u.SetReadBuffer(4 << 20) // as much as the kernel lets
	}
	messages := make([]ipv4.Message, datagramBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	seen := map[uint64]uint64{}
	for {
		n, err := p.ReadBatch(messages, 0)
		if err != nil {
			return
		}
		for _, m := range messages[:n] {
			if m.N < 8 {
				continue
			}
			flood := binary.BigEndian.Uint64(m.Buffers[0])
			if flood&questionBit == 0 {
				seen[flood]++
				continue
			}
			out := binary.BigEndian.AppendUint64(nil, flood)
			_, _ = c.WriteTo(binary.BigEndian.AppendUint64(out, seen[flood&^questionBit]), m.Addr)
		}
	}
}

// flooded is what became of a flood of datagrams.
type flooded struct {
	Sent    uint64  `json:"sent"`
	Arrived uint64  `json:"arrived"`
	Seconds float64 `json:"seconds"`
}

// flood ADDRESS SIZE DURATION RATE sends datagrams of so many bytes of payload, RATE a second, or with 0 as many as it can,
// and reports how many arrived.
func flood(args []string, out io.Writer) error {
	size, err := strconv.Atoi(args[1])
	if err != nil || size < 8 {
		return fmt.Errorf("size %q: want at least 8", args[1])
	}
	within, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	rate, err := strconv.ParseFloat(args[3], 64)
	if err != nil {
		return err
	}
	dialed, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer dialed.Close()
	c := dialed.(*net.UDPConn)
	number := uint64(time.Now().UnixNano())
	var f flooded
	if f.Sent, f.Seconds, err = send(c, number, size, within, rate); err != nil {
		return err
	}
	if f.Arrived, err = howMany(c, number); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(f)
}

// send returns how many datagrams were sent, in what time.
func send(c *net.UDPConn, number uint64, size int, within time.Duration, rate float64) (sent uint64, seconds float64, err error) {
	payload := make([]byte, size)
	binary.BigEndian.PutUint64(payload, number)
	messages := make([]ipv4.Message, datagramBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{payload}
	}
	p, start := ipv4.NewPacketConn(c), time.Now()
	tick := time.NewTicker(datagramTick)
	defer tick.Stop()
	for elapsed := time.Duration(0); elapsed < within; elapsed = time.Since(start) {
		due := datagramBatch
		if rate > 0 {
			if due = min(int(rate*elapsed.Seconds())-int(sent), datagramBatch); due <= 0 {
				<-tick.C
				continue
			}
		}
		n, err := p.WriteBatch(messages[:due], 0)
		if err != nil {
			return 0, 0, err
		}
		sent += uint64(n)
	}
	return sent, time.Since(start).Seconds(), nil
}

// howMany asks until the answer is the same twice: what is still on its way has arrived then.
func howMany(c *net.UDPConn, number uint64) (uint64, error) {
	question, answer := binary.BigEndian.AppendUint64(nil, number|questionBit), make([]byte, 16)
	last, known := uint64(0), false
	for end := time.Now().Add(answerTime); time.Now().Before(end); {
		if _, err := c.Write(question); err != nil {
			return 0, err
		}
		if err := c.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			return 0, err
		}
		n, err := c.Read(answer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) || err == nil && n < 16:
			continue
		case err != nil:
			return 0, err
		}
		got := binary.BigEndian.Uint64(answer[8:])
		if known && got == last {
			return got, nil
		}
		last, known = got, true
		<-time.After(askAgain)
	}
	return 0, fmt.Errorf("the receiver did not say how much arrived, within %v", answerTime)
}
