package bucket

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"sigs.k8s.io/yaml"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/internal/ownfile"
)

// Settings say how a bucket is reached, and who may use it.
type Settings struct {
	Name          string   `json:"name"`
	Endpoint      string   `json:"endpoint"` // https://HOST[:PORT] or http://HOST[:PORT]
	Region        string   `json:"region"`   // that requests are signed for; us-east-1 unless given
	AccessKey     string   `json:"accessKey"`
	SecretKey     string   `json:"secretKey"`
	SecretKeyFile string   `json:"secretKeyFile"` // absolute; instead of secretKey
	PathStyle     bool     `json:"pathStyle"`     // ENDPOINT/BUCKET instead of BUCKET.ENDPOINT
	CAFile        string   `json:"caFile"`        // absolute; certificates in PEM, instead of the machine's
	Accounts      []string `json:"accounts"`      // ids of those that may use it; "*": all
	ObjectLock    *Lock    `json:"objectLock"`    // nil: what the bucket does by itself
}

// Lock is for how long nothing that was delivered can be overwritten or deleted.
type Lock struct {
	Mode string `json:"mode"` // GOVERNANCE or COMPLIANCE, S3's words
	Days int    `json:"days"` // 1 to 36500, S3's most
}

const (
	defaultRegion = "us-east-1"
	// maxConfig bounds the file with the settings, in bytes.
	maxConfig = 1 << 20
	maxSecret = 4 << 10
	maxDays   = 36500
	dialWait  = 5 * time.Second
	// answerWait is for how long a store may take for an answer.
	answerWait = 8 * time.Second
)

// Set is the buckets of one file, by name. Nil has none.
type Set map[string]*Bucket

// Load reads a file with settings, YAML or JSON: {buckets: [...]}. As it may hold keys, nobody but its owner may read it.
func Load(file string) (Set, error) {
	data, err := ownfile.Read(file, maxConfig)
	if err != nil {
		return nil, refuse("name a file that only this user can read", "%v", err)
	}
	var c struct {
		Buckets []Settings `json:"buckets"`
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, refuse("write it as docs/FLOWLOGS.md has it", "%s: %v", file, err)
	}
	if len(c.Buckets) == 0 {
		return nil, refuse("write it as docs/FLOWLOGS.md has it", "%s has no buckets", file)
	}
	set := Set{}
	for i := range c.Buckets {
		b, err := New(c.Buckets[i])
		if err != nil {
			return nil, err
		}
		if set[b.s.Name] != nil {
			return nil, refuse("name each bucket once", "the bucket %q is there twice", b.s.Name)
		}
		set[b.s.Name] = b
	}
	return set, nil
}

func refuse(remedy, why string, args ...any) error {
	return api.Errorf(api.CodeInvalidParameter, "--s3-config", remedy, why, args...)
}

// New prepares a bucket. Nothing is asked of it yet.
func New(s Settings) (*Bucket, error) {
	bad := func(remedy, why string, args ...any) (*Bucket, error) {
		return nil, refuse(remedy, "bucket %q: "+why, append([]any{api.Shortened(s.Name)}, args...)...)
	}
	if err := s3utils.CheckValidBucketNameStrict(s.Name); err != nil {
		return bad("give the bucket's name", "%v", err)
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
		return bad("write https://HOST:PORT", "endpoint %q is no address of a store", api.Shortened(s.Endpoint))
	}
	if s.AccessKey == "" || (s.SecretKey == "") == (s.SecretKeyFile == "") {
		return bad("give accessKey, and secretKey or secretKeyFile", "keys are missing, or the secret one is given twice")
	}
	if s.SecretKeyFile != "" {
		if s.SecretKey, err = secret(s.SecretKeyFile); err != nil {
			return bad("name a file by an absolute path that only this user can read", "secretKeyFile: %v", err)
		}
	}
	for _, a := range s.Accounts {
		if a != "*" && !api.IsAccountID(a) {
			return bad(`give ids of accounts in quotes, or "*" for all`, "accounts: %q is no account", api.Shortened(a))
		}
	}
	if l := s.ObjectLock; l != nil && (!minio.RetentionMode(l.Mode).IsValid() || l.Days < 1 || l.Days > maxDays) {
		return bad("use mode GOVERNANCE or COMPLIANCE and 1 to 36500 days", "objectLock: %q for %d days is no lock", api.Shortened(l.Mode), l.Days)
	}
	transport, err := s.transport()
	if err != nil {
		return bad("name a file with certificates in PEM by an absolute path", "caFile: %v", err)
	}
	lookup := minio.BucketLookupDNS
	if s.PathStyle {
		lookup = minio.BucketLookupPath
	}
	if s.Region == "" {
		s.Region = defaultRegion
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Secure: u.Scheme == "https",
		Transport: transport, Region: s.Region, BucketLookup: lookup, TrailingHeaders: true, MaxRetries: 1})
	if err != nil {
		return bad("write https://HOST:PORT", "endpoint: %v", err)
	}
	return &Bucket{s: s, host: u.Host, client: client}, nil
}

// secret is the one of a file, without the end of its line.
func secret(file string) (string, error) {
	if !filepath.IsAbs(file) {
		return "", errNotAbsolute
	}
	data, err := ownfile.Read(file, maxSecret)
	if err == nil && len(bytes.TrimSpace(data)) == 0 {
		err = errEmpty
	}
	return string(bytes.TrimSpace(data)), err
}

// transport goes to the endpoint and nowhere else: neither proxies of the environment nor redirections.
func (s *Settings) transport() (http.RoundTripper, error) {
	t := &http.Transport{DialContext: (&net.Dialer{Timeout: dialWait}).DialContext, TLSHandshakeTimeout: dialWait,
		ResponseHeaderTimeout: answerWait, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, DisableCompression: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if s.CAFile == "" {
		return t, nil
	}
	if !filepath.IsAbs(s.CAFile) {
		return nil, errNotAbsolute
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errNoCertificate
	}
	return t, nil
}

// For is a bucket that an account may use; nil where there is none.
func (s Set) For(account, name string) *Bucket {
	b := s[name]
	if b == nil || !slices.Contains(b.s.Accounts, account) && !slices.Contains(b.s.Accounts, "*") {
		return nil
	}
	return b
}
