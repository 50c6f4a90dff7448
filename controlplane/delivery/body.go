package delivery

import (
	"context"
	"errors"
	"io"
	"time"
)

var errStalled = errors.New("the destination took nothing for 8 s")

// Body is an object's content on its way. Whoever takes it too slowly loses it.
type Body struct {
	io.ReadSeeker
	Size  int64
	timer *time.Timer
	stop  context.CancelCauseFunc
}

// newBody gives a context that ends when nothing is taken for stallAfter; tell is called then, also if the taker hangs.
func newBody(ctx context.Context, from io.ReadSeeker, size int64, tell func(error)) (context.Context, *Body) {
	ctx, stop := context.WithCancelCause(ctx)
	b := &Body{ReadSeeker: from, Size: size, stop: stop}
	b.timer = time.AfterFunc(stallAfter, func() {
		tell(errStalled)
		stop(errStalled)
	})
	return ctx, b
}

// Read is the file's, and shows that something is taken.
func (b *Body) Read(p []byte) (int, error) {
	b.timer.Reset(stallAfter)
	return b.ReadSeeker.Read(p)
}

func (b *Body) end() {
	b.timer.Stop()
	b.stop(nil)
}

// stalled is errStalled if that ended a context.
func stalled(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return nil
}
