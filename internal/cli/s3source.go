package cli

import (
	"context"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bucket"
	"github.com/culvert-net/culvert/audit/query"
)

// s3Scheme begins places in buckets.
const s3Scheme = "s3://"

// bucketSource is the files below a prefix of a bucket, by what follows it.
type bucketSource struct {
	bucket *bucket.Bucket
	prefix string // empty, or with a slash at its end
	found  map[string]bucket.Info
	list   []query.File
}

// openBucket is the files of s3://BUCKET/PREFIX. The settings say where that is, as those of the server do.
func openBucket(ctx context.Context, from, config string) (query.Source, error) {
	at, err := bucket.ParseLocation(from)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--from", "write s3://BUCKET or s3://BUCKET/PREFIX", "%v", err)
	}
	if config == "" {
		return nil, api.Errorf(api.CodeMissingParameter, "--s3-config", "name a file with the bucket's endpoint and keys, as docs/FLOWLOGS.md has it",
			"a bucket is given, and not how it is reached")
	}
	set, err := bucket.Load(config)
	if err != nil {
		return nil, err
	}
	s := &bucketSource{bucket: set[at.Bucket], prefix: at.Prefix, found: map[string]bucket.Info{}}
	if s.bucket == nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--from", "name one that is there", "%s has no bucket %q", config, api.Shortened(at.Bucket))
	}
	if s.prefix != "" {
		s.prefix += "/"
	}
	// Once: what comes while questions are answered belongs to none of them.
	infos, err := s.bucket.List(ctx, s.prefix)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalidParameter, "--from", "look at the endpoint and the keys, which need s3:ListBucket and s3:GetObject", "%v", err)
	}
	for _, o := range infos {
		name := strings.TrimPrefix(o.Key, s.prefix)
		if query.IsRecords(name) {
			s.found[name] = o
			s.list = append(s.list, query.File{Name: name, Size: o.Size})
		}
	}
	return s, nil
}

func (s *bucketSource) Files(context.Context) ([]query.File, error) { return s.list, nil }

func (s *bucketSource) Open(ctx context.Context, f query.File) (query.Reader, error) {
	return s.bucket.Open(ctx, s.found[f.Name]), nil
}
