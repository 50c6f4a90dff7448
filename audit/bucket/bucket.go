// Package bucket reaches buckets of S3-compatible stores: puts what is delivered there, and reads it by ranges.
package bucket

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/culvert-net/culvert/api"
)

var (
	errNotAbsolute   = errors.New("the path is not absolute")
	errEmpty         = errors.New("the file is empty")
	errNoCertificate = errors.New("the file has no certificate in PEM")
	errNoLock        = errors.New("it has no object lock: make it anew with object lock, or leave objectLock out of the settings")
	errOtherBytes    = errors.New("the store has other bytes than were sent")
)

// Bucket is one of a store's. It may be used by several goroutines.
type Bucket struct {
	s      Settings
	host   string
	client *minio.Client

	mu     sync.Mutex
	locked bool // it was seen that the bucket locks objects
}

// Object is what is put.
type Object struct {
	Key     string
	Size    int64
	SHA256  string // hex
	FlowLog string // id
}

// Names of what is told with an object. The sum is S3's own header x-amz-checksum-sha256, too, which the store compares with what it got.
const (
	metaSum      = "Culvert-Sha256"
	metaFlowLog  = "Culvert-Flow-Log"
	checksum     = "x-amz-checksum-sha256"
	retainedTill = "X-Amz-Object-Lock-Retain-Until-Date"
)

// Put stores an object as a whole or not at all, under lock where the settings say so. One that is there already is not written again:
// a store may refuse that under lock, and one with versions would keep both.
func (b *Bucket) Put(ctx context.Context, o Object, body io.Reader) error {
	err := b.put(ctx, o, body)
	if err != nil {
		return fmt.Errorf("bucket %s at %s: %w", b.s.Name, b.host, told(err))
	}
	return nil
}

func (b *Bucket) put(ctx context.Context, o Object, body io.Reader) error {
	sum, err := hex.DecodeString(o.SHA256)
	if err != nil {
		return err
	}
	sum64 := base64.StdEncoding.EncodeToString(sum)
	if err := b.checkLock(ctx); err != nil {
		return err
	}
	if there, err := b.has(ctx, o, sum64); there || err != nil {
		return err
	}
	opts := minio.PutObjectOptions{DisableMultipart: true,
		UserMetadata: map[string]string{metaSum: o.SHA256, metaFlowLog: o.FlowLog, checksum: sum64}}
	if l := b.s.ObjectLock; l != nil {
		opts.Mode, opts.RetainUntilDate = minio.RetentionMode(l.Mode), time.Now().UTC().AddDate(0, 0, l.Days)
	}
	info, err := b.client.PutObject(ctx, b.s.Name, o.Key, body, o.Size, opts)
	if err != nil {
		return err
	}
	if info.ChecksumSHA256 != "" && info.ChecksumSHA256 != sum64 {
		return errOtherBytes
	}
	return nil
}

// has says whether the object is there, as it should be. Who may only write finds out that it is not allowed to look: it writes.
func (b *Bucket) has(ctx context.Context, o Object, sum64 string) (bool, error) {
	info, err := b.client.StatObject(ctx, b.s.Name, o.Key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		if e := minio.ToErrorResponse(err); e.StatusCode == http.StatusNotFound || e.StatusCode == http.StatusForbidden {
			return false, nil
		}
		return false, err
	}
	return info.Size == o.Size && info.UserMetadata[metaSum] == o.SHA256 && (info.ChecksumSHA256 == "" || info.ChecksumSHA256 == sum64) &&
		(b.s.ObjectLock == nil || info.Metadata.Get(retainedTill) != ""), nil
}

// checkLock refuses a bucket that takes objects and would not lock them.
func (b *Bucket) checkLock(ctx context.Context) error {
	if b.s.ObjectLock == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.locked {
		return nil
	}
	state, _, _, _, err := b.client.GetObjectLockConfig(ctx, b.s.Name)
	if minio.ToErrorResponse(err).Code == "ObjectLockConfigurationNotFoundError" || err == nil && state != "Enabled" {
		return errNoLock
	}
	if err != nil {
		return fmt.Errorf("its object lock cannot be read: %w", err)
	}
	b.locked = true
	return nil
}

// told has the store's code with its words, which often say little.
func told(err error) error {
	var e minio.ErrorResponse
	if errors.As(err, &e) && e.Code != "" && !strings.Contains(err.Error(), e.Code) {
		return fmt.Errorf("%w (%s)", err, e.Code)
	}
	return err
}

// Location is where in which bucket, as s3://BUCKET/PREFIX says it.
type Location struct{ Bucket, Prefix string }

// ParseLocation reads s3://BUCKET or s3://BUCKET/PREFIX. A prefix is a path: what stands between its slashes is no "", "." or "..".
func ParseLocation(text string) (Location, error) {
	rest, is := strings.CutPrefix(text, "s3://")
	name, prefix, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if !is || name == "" || prefix != "" && (path.Clean("/"+prefix) != "/"+prefix) || strings.HasSuffix(rest, "//") {
		return Location{}, fmt.Errorf("%q is no place in a bucket", api.Shortened(text))
	}
	return Location{name, prefix}, nil
}
