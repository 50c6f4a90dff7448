package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The failover test needs servers and clients that are processes in workloads, so that they can be killed and stopped. They are
// this program, told by its environment what to be.
const (
	roleVariable = "CULVERT_E2E_ROLE"
	roleServer   = "server" // arguments: its name, then ADDRESS:PORT where it answers HTTP; SIGUSR1 makes it slow
	roleClient   = "client" // see playClient
)

// playRole runs a role to its end.
func playRole(role string, args []string) error {
	switch role {
	case roleServer:
		return playServer(args[0], args[1:])
	case roleClient:
		return playClient(os.Stdin, os.Stdout)
	case roleAsker:
		return playAsker(os.Stdin, os.Stdout, args[0], args[1])
	}
	return fmt.Errorf("role %q is unknown", role)
}

// slowAnswer is how long a slow server takes: longer than clients and checks wait.
const slowAnswer = 5 * time.Second

func playServer(name string, addresses []string) error {
	var slow atomic.Bool
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	go func() {
		for range usr1 {
			slow.Store(true)
		}
	}()
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow.Load() {
			select {
			case <-time.After(slowAnswer):
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, name)
	})
	errs := make(chan error, len(addresses))
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		go func() { errs <- (&http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}).Serve(l) }()
	}
	fmt.Println("ready")
	return <-errs
}

// request is one that a client made.
type request struct {
	URL    string
	Load   int // the number of the command that began to load it
	Long   int // the number of the long connection that it went by; 0: by one of its own
	Begun  time.Time
	Took   time.Duration
	Server string // that answered
	Err    string `json:",omitempty"`
}

// How a client loads a URL: a request every shortEvery whatever became of those before, each on a connection of its own, and on
// longConnections others one every longEvery. None waits for longer than patience.
const (
	shortEvery      = 40 * time.Millisecond
	longConnections = 2
	longEvery       = 100 * time.Millisecond
	patience        = time.Second
)

// playClient takes lines: "load NUMBER URL" begins to load it, "stop NUMBER URL" ends that. Each request is written when it is over,
// as JSON.
func playClient(in io.Reader, out io.Writer) error {
	stops := map[string]context.CancelFunc{}
	var mu sync.Mutex
	w := json.NewEncoder(out)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var command, url string
		var number int
		if _, err := fmt.Sscan(lines.Text(), &command, &number, &url); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		keep := func(r request) {
			mu.Lock()
			defer mu.Unlock()
			r.Load = number
			_ = w.Encode(r) // without a reader the input ends, too
		}
		if stop := stops[url]; stop != nil {
			stop()
		}
		if command != "load" {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		stops[url] = cancel
		go loadShort(ctx, url, keep)
		for n := range longConnections {
			go loadLong(ctx, url, n+1, keep)
		}
	}
	return lines.Err()
}

// ask makes one request.
func ask(t *http.Transport, url string) (r request) {
	r = request{URL: url, Begun: time.Now()}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return request{URL: url, Err: err.Error()}
	}
	answer, err := t.RoundTrip(q)
	if err == nil {
		var body []byte
		body, err = io.ReadAll(answer.Body)
		answer.Body.Close()
		r.Server = string(body)
	}
	if err != nil {
		r.Err = err.Error()
	}
	r.Took = time.Since(r.Begun)
	return r
}

// dial connects. Its end, also that of who gives up, is a RST: a client that leaves with something on its way says nothing of that to
// its node while the host is away, and whoever takes its port again within minutes is led there, be the host dead once more.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return c, c.(*net.TCPConn).SetLinger(0)
}

func loadShort(ctx context.Context, url string, keep func(request)) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	tick := time.NewTicker(shortEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			go func() { keep(ask(t, url)) }()
		}
	}
}

// loadLong ends with its connection, which is never made anew. It is no http.Transport's: that gives a connection up when its own goroutine
// got no processor for 50 ms, and here it would look as if the connection had ended.
func loadLong(ctx context.Context, url string, n int, keep func(request)) {
	tick := time.NewTicker(longEvery)
	defer tick.Stop()
	var c *longConnection
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r := request{URL: url, Long: n, Begun: time.Now()}
		var err error
		if c == nil {
			if c, err = newLongConnection(url); c != nil {
				defer c.conn.Close()
			}
		}
		if err == nil {
			r.Server, err = c.ask()
		}
		if r.Took = time.Since(r.Begun); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			err = context.DeadlineExceeded
		}
		if err != nil {
			r.Err = err.Error()
		}
		if keep(r); err != nil {
			return
		}
	}
}

// longConnection is one for HTTP requests, one after the other.
type longConnection struct {
	request *http.Request
	conn    net.Conn
	answers *bufio.Reader
}

func newLongConnection(url string) (*longConnection, error) {
	q, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := dial(ctx, "tcp", q.URL.Host)
	if err != nil {
		return nil, err
	}
	return &longConnection{q, c, bufio.NewReader(c)}, nil
}

// ask says who answers.
func (c *longConnection) ask() (server string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if err := c.request.Write(c.conn); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(c.answers, c.request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}
