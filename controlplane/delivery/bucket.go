package delivery

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bucket"
)

// inBucket is a prefix in a bucket.
type inBucket struct {
	bucket *bucket.Bucket
	prefix string
}

// Put stores a file; S3 shows it when it is whole.
func (i inBucket) Put(ctx context.Context, o Object, body *Body) error {
	return i.bucket.Put(ctx, bucket.Object{Key: path.Join(i.prefix, o.Path), Size: o.Size, SHA256: o.SHA256, FlowLog: o.FlowLog}, body)
}

// inBucket is one that the operator lets the account use. Which others there are is not told.
func (a *Allowed) inBucket(account, destination string) (Destination, error) {
	const form = "write s3://BUCKET or s3://BUCKET/PREFIX"
	at, err := bucket.ParseLocation(destination)
	if err != nil {
		return nil, refuse(form, "%v", err)
	}
	// Accounts of one bucket are told apart by what follows AWSLogs.
	if slices.Contains(strings.Split(at.Prefix, "/"), "AWSLogs") {
		return nil, refuse("choose another prefix", "AWSLogs is where files begin, and no part of a prefix")
	}
	b := a.Buckets.For(account, at.Bucket)
	if b == nil {
		return nil, refuse("have the operator allow it: culvert server --s3-config", "the account has no bucket %q", api.Shortened(at.Bucket))
	}
	return inBucket{b, at.Prefix}, nil
}
