// Command culvert is the whole of Culvert: server, agent, tunnel and the user's commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-net/culvert/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	status := cli.Main(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	os.Exit(status)
}
