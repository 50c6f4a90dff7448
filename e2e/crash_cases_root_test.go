package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-net/culvert/agent/wire"
	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/internal/dev"
	"github.com/culvert-net/culvert/internal/failpoint"
	"github.com/culvert-net/culvert/internal/netns"
)

// points kills at every failpoint, one after the other.
func (m *crashMesh) everyPoint(t *testing.T) {
	code := codePoints(t)
	r, made := &pointRun{killed: map[string]int{}}, &pointRun{killed: map[string]int{}}
	over := make(chan struct{})
	go func() { // beside all others: it is about a mesh of its own
		defer close(over)
		t.Run("dev", func(t *testing.T) { m.devPoints(t, made) })
	}()
	defer func() { <-over }()
	for _, p := range crashProcesses { // from now on processes with failpoints
		if err := m.lab.Kill(p[0], p[1], false); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.points.Start(t.Context(), "", ""); err != nil {
		t.Fatal(err)
	}
	r.w = startWatch(t, m)
	for _, c := range slices.Concat(m.agentCases(t), m.tunnelCases(t), m.serverCases(t)) {
		t.Run(c.name, func(t *testing.T) {
			if c.first != nil {
				if err := c.first(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			before := m.rest(t, c.first != nil)
			r.run(t, c)
			same(t, m.prefix, c.name, before)
		})
	}
	r.w.stop(t)
	r.w = nil
	for _, c := range append([]crashCase{m.firstStart(t)}, m.hostCases(t)...) {
		t.Run(c.name, func(t *testing.T) {
			if c.first != nil {
				if err := c.first(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r.run(t, c)
		})
	}
	<-over
	for point, n := range made.killed {
		r.killed[point] += n
	}
	total := 0
	for _, n := range r.killed {
		total += n
	}
	t.Logf("n=%d kills at %d points; revived: %s", total, len(r.killed), r.revived)
	for _, point := range slices.Sorted(maps.Keys(code)) {
		if r.killed[point] == 0 {
			t.Errorf("%s: nothing was killed at failpoint %s", code[point], point)
		}
	}
	for point := range r.killed {
		if code[point] == "" {
			t.Errorf("failpoint %s is in no source", point)
		}
	}
}

// rest is what the mesh has; where something was done before, once nothing of that has changed for a tick: pins of a link that went go
// with the next round.
func (m *crashMesh) rest(t *testing.T, done bool) []string {
	t.Helper()
	now := func() []string {
		t.Helper()
		all, err := traces(m.prefix)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := now()
	for range 20 {
		if !done {
			break
		}
		before := all
		pause(t.Context(), 2500*time.Millisecond)
		all = now()
		done = difference(before, all) != nil
	}
	return all
}

// revive starts a process again; the one that kills itself may not have ended yet.
func (m *crashMesh) revive(host, role string) func(context.Context) error {
	return func(ctx context.Context) error {
		return errors.Join(m.points.Kill(host, role, false), m.points.Start(ctx, host, role))
	}
}

// of selects points by their first words.
func of(kinds ...string) func(string) bool {
	return func(point string) bool {
		kind, _, _ := strings.Cut(point, ".")
		return slices.Contains(kinds, kind)
	}
}

// settled waits for both nodes to have the newest view, and to be well.
func (m *crashMesh) settled(ctx context.Context) error {
	if err := m.converge(ctx); err != nil {
		return err
	}
	return m.well(ctx, "host-a", "host-b")
}

// side accepts or rejects the connection that nothing uses, and waits until both nodes have it so. Who says so twice is
// told that it is so already, which is fine.
func (m *crashMesh) side(ctx context.Context, accept bool) error {
	ep, err := m.as("shop").GetEndpoint(ctx, "side")
	if err != nil {
		return err
	}
	verb := m.as("pay").RejectConnections
	if accept {
		verb = m.as("pay").AcceptConnections
	}
	_, err = verb(ctx, "side", []string{ep.ID})
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.CodeIncorrectState {
		err = nil
	}
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, slack*3*time.Second) // who died does not converge
	defer cancel()
	s, err := m.as("").Status(ctx)
	if err != nil {
		return err
	}
	return m.as("").WaitConverged(short, s.Revision)
}

func (m *crashMesh) agentCases(t *testing.T) []crashCase {
	a, b := m.pointDir(t, "host-a", "agent"), m.pointDir(t, "host-b", "agent")
	attach := func(yes bool) func(context.Context) error {
		return func(ctx context.Context) error { return m.spare(ctx, yes) }
	}
	side := func(yes bool) func(context.Context) error {
		return func(ctx context.Context) error { return m.side(ctx, yes) }
	}
	idle := m.listenIdle(t)
	opened := func(ctx context.Context) error {
		if err := m.side(ctx, true); err != nil {
			return err
		}
		return idle.open(ctx, m.address("side", 444))
	}
	restart := func(ctx context.Context) error {
		return errors.Join(m.points.Kill("host-a", "agent", false), m.points.Start(ctx, "host-a", "agent"))
	}
	nothing := func(context.Context) error { return nil }
	record := func(ctx context.Context) error { // the first reading of a run is sealed
		ctx, cancel := context.WithTimeout(ctx, slack*30*time.Second)
		defer cancel()
		if err := m.points.Kill("host-a", "agent", false); err != nil {
			return err
		}
		before, err := passings(a) // of which the one before may have had one until it was dead
		if err := errors.Join(err, m.points.Start(ctx, "host-a", "agent")); err != nil {
			return err
		}
		for ctx.Err() == nil {
			if now, err := passings(a); err != nil || now["flow.sealed"] > before["flow.sealed"] {
				return err
			}
			pause(ctx, 20*time.Millisecond)
		}
		return ctx.Err()
	}
	return []crashCase{
		{name: "detach", dir: a, do: attach(false), undo: attach(true), revive: m.revive("host-a", "agent"), check: m.settled,
			only: of("round", "detach", "unveth", "datapath", "tunnel", "hostlink", "infrastructure", "resolver")},
		{name: "attach", dir: a, first: attach(false), do: attach(true), undo: attach(false), revive: m.revive("host-a", "agent"),
			check: m.settled, only: of("attach", "veth", "link", "secure", "resolver", "state", "apply")},
		{name: "reject at the provider", dir: b, first: opened, do: side(false), undo: opened, revive: m.revive("host-b", "agent"),
			check: func(ctx context.Context) error { return errors.Join(m.settled(ctx), idle.cut()) }, only: of("apply")},
		{name: "restart of an agent", dir: a, do: restart, undo: nothing, revive: m.revive("host-a", "agent"), check: m.settled,
			only: of("open", "infrastructure")},
		{name: "flow records", dir: a, do: record, undo: nothing, revive: m.revive("host-a", "agent"), check: m.settled,
			only: of("flow")},
	}
}

func (m *crashMesh) tunnelCases(t *testing.T) []crashCase {
	dir := m.pointDir(t, "host-a", "tunnel")
	upgrade := func(ctx context.Context) error {
		return wire.NewUAPI(m.lab.RunDir("host-a", "tunnel.sock")).Upgrade(ctx)
	}
	restart := func(ctx context.Context) error {
		return errors.Join(m.points.Kill("host-a", "tunnel", false), m.points.Start(ctx, "host-a", "tunnel"), m.peered(ctx))
	}
	nothing := func(context.Context) error { return nil }
	return []crashCase{
		{name: "upgrade of a tunnel", dir: dir, do: upgrade, undo: nothing, revive: m.revive("host-a", "tunnel"), check: m.passes},
		{name: "restart of a tunnel", dir: dir, do: restart, undo: nothing, revive: m.revive("host-a", "tunnel"), check: m.passes},
	}
}

// peered waits until the tunnel of host-a has its peer again.
func (m *crashMesh) peered(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, slack*3*time.Second)
	defer cancel()
	for {
		s, err := wire.NewUAPI(m.lab.RunDir("host-a", "tunnel.sock")).Observe(ctx)
		if err != nil || len(s.Peers) > 0 {
			return err
		}
		if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
			return errors.New("no peer yet")
		}
	}
}

// passes: the consumer is answered.
func (m *crashMesh) passes(ctx context.Context) error {
	return errors.Join(m.oneAnswer(ctx), m.settled(ctx))
}

func (m *crashMesh) serverCases(t *testing.T) []crashCase {
	dir := m.pointDir(t, "server", "server")
	shop := m.as("shop")
	n := 0
	key := func() string { return fmt.Sprintf("crash-%d", n) }
	// The same call with the same key, whether the first one came through or not, makes one group.
	create := func(ctx context.Context) error {
		_, err := shop.CreateSecurityGroup(ctx, api.CreateSecurityGroupRequest{VPC: "shop", Name: "once"},
			client.WithIdempotencyKey(key()))
		return err
	}
	remove := func(ctx context.Context) error {
		n++
		_, err := shop.DeleteSecurityGroup(ctx, "once")
		return err
	}
	refused := func(ctx context.Context) error {
		n++
		before, err := passings(dir)
		if err != nil {
			return err
		}
		// Refusals of one kind are counted, so that not each is an event: one that changes something goes into the Merkle log in any case.
		_, err = shop.CreateEndpoint(ctx, api.CreateEndpointRequest{VPC: "shop", Service: fmt.Sprintf("pay/none-%d", n)})
		var e *api.Error
		if errors.As(err, &e) && e.Code != api.CodeUnavailable {
			if _, err := m.as("").CreateToken(ctx, api.CreateTokenRequest{}); err != nil {
				return err
			}
			for ctx.Err() == nil {
				if now, err := passings(dir); err != nil || now["audit.sealed"] > before["audit.sealed"] {
					return err
				}
				pause(ctx, 20*time.Millisecond)
			}
			return ctx.Err()
		}
		return errors.Join(errors.New("not refused"), err)
	}
	nothing := func(context.Context) error { return nil }
	one := func(ctx context.Context) error {
		groups, err := shop.ListSecurityGroups(ctx)
		n := 0
		for _, g := range groups {
			if g.Name == "once" {
				n++
			}
		}
		if err == nil && n != 1 {
			err = fmt.Errorf("%d groups", n)
		}
		return err
	}
	server := m.revive("server", "server")
	return []crashCase{
		{name: "a write", dir: dir, do: create, undo: remove, revive: server, check: one},
		{name: "a refusal", dir: dir, do: refused, undo: nothing, revive: server,
			only: func(p string) bool { return p == "audit.refusal" || p == "audit.sealed" }},
	}
}

// hostCases are of a third host: it joins, starts on a machine without anything of ours, and leaves.
func (m *crashMesh) hostCases(t *testing.T) []crashCase {
	data, ns := m.lab.StateDir("nodes", "host-c"), m.prefix+"-host-c"
	joinDir, leaveDir := m.pointDir(t, "host-c", "join"), m.pointDir(t, "host-c", "leave")
	socket := m.lab.RunDir("host-c", "tunnel.sock")
	nothing := func(context.Context) error { return nil }
	var token string
	join := func(ctx context.Context) error {
		if token == "" {
			created, err := m.as("").CreateToken(ctx, api.CreateTokenRequest{NodeName: "host-c", TTLSeconds: 600})
			if err != nil {
				return err
			}
			token = created.Secret
		}
		if _, err := os.Stat(filepath.Join(data, "identity.json")); err == nil {
			return nil // joined
		}
		return m.command(ctx, ns, joinDir, []string{"CULVERT_JOIN_TOKEN=" + token}, "agent", "join", "--server",
			"https://10.99.0.1:7443", "--name", "host-c", "--underlay-address", "10.99.0.12", "--data-dir", data)
	}
	revoke := func(ctx context.Context) error {
		token = ""
		nodes, err := m.as("").ListNodes(ctx)
		for _, n := range nodes {
			if n.Name == "host-c" && n.State != api.NodeRevoked {
				_, errRevoke := m.as("").RevokeNode(ctx, n.ID)
				err = errors.Join(err, errRevoke)
			}
		}
		return err
	}
	leave := func(ctx context.Context) error {
		if err := m.points.Kill("host-c", "", false); err != nil {
			return err
		}
		return m.command(ctx, ns, leaveDir, nil, "agent", "leave", "--force", "--data-dir", data, "--pin-dir",
			"/sys/fs/bpf/"+m.prefix+"-dev/host-c", "--tunnel-socket", socket)
	}
	start := func(ctx context.Context) error {
		return errors.Join(m.points.Start(ctx, "host-c", ""), m.well(ctx, "host-c"))
	}
	return []crashCase{
		{name: "join", dir: joinDir, revive: nothing, do: join,
			first: func(ctx context.Context) error { return errors.Join(m.guest(ctx), leave(ctx), revoke(ctx)) },
			undo:  func(ctx context.Context) error { return errors.Join(revoke(ctx), os.RemoveAll(data)) }},
		{name: "first start", dir: m.pointDir(t, "host-c", "agent"), do: start, revive: nothing,
			first: func(ctx context.Context) error { return errors.Join(m.guest(ctx), m.boot(ctx, "host-c")) },
			undo:  func(ctx context.Context) error { return m.boot(ctx, "host-c") },
			only:  of("open", "infrastructure", "hostlink", "link", "veth", "secure", "resolver")},
		{name: "leave", dir: leaveDir, first: m.guest, do: leave, revive: nothing, check: m.nothingLeft,
			undo: func(ctx context.Context) error { return errors.Join(revoke(ctx), m.guest(ctx)) }},
	}
}

// guest makes the third host with a workload: it joins where it has not, its processes run, and the workload is attached.
func (m *crashMesh) guest(ctx context.Context) error {
	if err := m.points.Up(ctx, 3); err != nil {
		return err
	}
	_, err := m.as("shop").GetENI(ctx, "guest")
	var refused *api.Error
	if errors.As(err, &refused) {
		_, err = m.as("shop").CreateENI(ctx, api.CreateENIRequest{Subnet: "shop", Name: "guest", Node: "host-c"})
	}
	if err != nil {
		return err
	}
	_, err = m.points.AddWorkload(ctx, m.as("shop"), dev.Workload{Name: m.ns("guest"), Host: "host-c", ENI: "guest"})
	return err
}

// boot takes from a host what the kernel would not have after a boot.
func (m *crashMesh) boot(ctx context.Context, host string) error {
	ns := m.prefix + "-" + host
	if err := errors.Join(m.points.Kill(host, "", false), os.RemoveAll("/sys/fs/bpf/"+m.prefix+"-dev/"+host)); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ip", "-n", ns, "-brief", "link").Output()
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		if strings.HasPrefix(name, "culvert") || strings.HasPrefix(name, "cv") {
			_ = exec.CommandContext(ctx, "ip", "-n", ns, "link", "del", name).Run() // the other end of a pair is gone already
		}
	}
	return errors.Join(err, exec.CommandContext(ctx, "ip", "netns", "exec", ns, "nft", "flush", "ruleset").Run())
}

// nothingLeft of ours is on the third host.
func (m *crashMesh) nothingLeft(ctx context.Context) error {
	ns := m.prefix + "-host-c"
	links, err := exec.CommandContext(ctx, "ip", "-n", ns, "-brief", "link").Output()
	rules, err2 := exec.CommandContext(ctx, "ip", "netns", "exec", ns, "nft", "list", "ruleset").Output()
	var files []string
	for _, pattern := range []string{"/sys/fs/bpf/" + m.prefix + "-dev/host-c/*", m.lab.StateDir("nodes", "host-c", "*"),
		netns.ConfigDir + "/" + m.ns("guest"), netns.ConfigDir + "/.culvert*guest*"} {
		found, errGlob := filepath.Glob(pattern)
		files, err = append(files, found...), errors.Join(err, errGlob)
	}
	if text := string(links); strings.Contains(text, "culvert") || strings.Contains(text, "cv") || len(rules)+len(files) > 0 {
		err = errors.Join(err, fmt.Errorf("left: %s%s%v", links, rules, files))
	}
	return errors.Join(err, err2)
}

// firstStart is the case of a server with an empty data directory.
func (m *crashMesh) firstStart(t *testing.T) crashCase {
	dir := filepath.Join(m.dir, "first")
	points := m.pointDir(t, "first", "server")
	key, ready, address := filepath.Join(dir, "key"), filepath.Join(dir, "ready"), "unix:"+filepath.Join(dir, "sock")
	serves := func(ctx context.Context) error {
		secret, err := os.ReadFile(key)
		if err != nil {
			return fmt.Errorf("the administrator's key was made and never told: %w", err)
		}
		authority, err := os.ReadFile(filepath.Join(dir, "data", "ca.pem"))
		if err != nil {
			return err
		}
		c, err := client.New(client.Config{Address: address, CA: authority, APIKey: strings.TrimSpace(string(secret))})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.ListNodes(ctx)
		return err
	}
	// The server is stopped and not killed: what it does beside, such as putting events into the Merkle log, is done then at the latest.
	do := func(ctx context.Context) error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, slack*time.Minute)
		ended := make(chan error, 1)
		go func() {
			ended <- m.command(ctx, "", points, nil, "server", "--data-dir", filepath.Join(dir, "data"), "--listen", address,
				"--admin-key-file", key, "--ready-file", ready)
		}()
		defer func() { cancel(); <-ended }()
		for {
			if _, err := os.Stat(ready); err == nil {
				err := serves(ctx)
				cancel()
				ended <- <-ended
				if gone := os.Remove(ready); !errors.Is(gone, fs.ErrNotExist) {
					err = errors.Join(err, gone)
				}
				return err
			}
			select {
			case err := <-ended:
				ended <- err
				return err
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	nothing := func(context.Context) error { return nil }
	return crashCase{name: "first start of a server", dir: points, do: do, revive: nothing,
		undo: func(context.Context) error { return os.RemoveAll(dir) }}
}

// command runs a culvert command with failpoints in a namespace, to its end.
func (m *crashMesh) command(ctx context.Context, namespace, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(m.dir, "culvert-points"), args...)
	cmd.Env = slices.Concat(os.Environ(), env, []string{failpoint.Env + "=" + dir})
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	start := cmd.Start
	if namespace != "" {
		start = func() error { return netns.Start(netns.Path(namespace), cmd) }
	}
	if err := start(); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("culvert %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}
