package delivery

import (
	"context"
	"io"
	"time"
)

// Body is an object's content on its way. Whoever takes it too slowly loses it.
type Body struct {
	io.ReadSeeker
	Size  int64
	timer *time.Timer
	stop  context.CancelCauseFunc
}
