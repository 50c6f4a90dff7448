package delivery

import (
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/bucket"
)

// Allowed is where the operator lets flow logs go.
type Allowed struct {
	// Local has a directory for each account.
	Local string
	// Room bounds what is written into directories; nil: nothing does.
	Room *Room
	// Dirs are absolute directories that any account may name, or what is below them.
	Dirs []string
	// Streams are HOST:PORT that any account may send to.
	Streams []string
	// Buckets say themselves who may use them.
	Buckets bucket.Set
}

func refuse(remedy, why string, args ...any) error {
	return api.Errorf(api.CodeInvalidParameter, "logDestination", remedy, why, args...)
}

// Check says why a flow log cannot go where it wants, as an *api.Error of logDestination.
func (a *Allowed) Check(f *api.FlowLog) error {
	_, err := a.Open(f)
	return err
}

// Open makes a flow log's destination.
func (a *Allowed) Open(f *api.FlowLog) (Destination, error) {
	switch f.DestinationType {
	case api.DestinationLocal:
		dir, err := a.localDir(f.Account, f.Destination)
		if err != nil {
			return nil, err
		}
		return local{dir, a.Room, !filepath.IsAbs(f.Destination)}, nil
	case api.DestinationStream:
		return a.stream(f.Destination)
	case api.DestinationS3:
		return a.inBucket(f.Account, f.Destination)
	}
	return nil, refuse("use local, s3 or stream", "the destination type %q is not known here", api.Shortened(string(f.DestinationType)))
}

// stream is one that the operator allows.
func (a *Allowed) stream(destination string) (Destination, error) {
	u, err := url.Parse(destination)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, refuse("write https://HOST:PORT/PATH, http://HOST:PORT/PATH, tls://HOST:PORT or tcp://HOST:PORT", "%q is no address of a stream",
			api.Shortened(destination))
	}
	ports := map[string]string{"http": "80", "https": "443"}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	address := net.JoinHostPort(strings.ToLower(u.Hostname()), port)
	switch {
	case !slices.Contains([]string{"http", "https", "tcp", "tls"}, u.Scheme):
		return nil, refuse("use http, https, tcp or tls", "streams do not go by %q", api.Shortened(u.Scheme))
	case port == "":
		return nil, refuse("write "+u.Scheme+"://HOST:PORT", "%q has no port", api.Shortened(destination))
	case (u.Scheme == "tcp" || u.Scheme == "tls") && u.RequestURI() != "/":
		return nil, refuse("write "+u.Scheme+"://HOST:PORT", "%q has a path, and %s has none", api.Shortened(destination), u.Scheme)
	case !slices.Contains(a.Streams, address):
		return nil, refuse("have the operator allow it: culvert server --flow-log-stream "+address, "streams to %s are not allowed", address)
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		return post{destination}, nil
	}
	return socket{address, u.Scheme == "tls"}, nil
}
