package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-net/culvert/api"
)

// families: UDP and TCP between clients and targets of different families, without UDP's checksum where IPv4 may leave it out, in
// every length around what parts and checksums turn on.
func (m *commandMesh) families(t *testing.T) {
	m.offer(t, "sixes", 7007, "tcp,udp", "--target six")
	m.offer(t, "fours", 7017, "tcp,udp", "--target t1")
	m.greet(t, "six", 7007)
	m.greet(t, "t1", 7017)
	sixes, fours := m.connect(t, "shop", "sixes", "--ip-address-type dualstack"), m.connect(t, "shop", "fours", "--ip-address-type dualstack")
	for _, c := range []struct {
		client, target string
		to             netip.AddrPort
		bare           bool // without checksum
	}{
		{"cart", "six", netip.AddrPortFrom(sixes["z1"], 7007), false},
		{"cart", "six", netip.AddrPortFrom(sixes["z1"], 7007), true},
		{"till", "six", netip.AddrPortFrom(sixes["z2"], 7007), true},
		{"cart", "t1", netip.AddrPortFrom(fours["z1"], 7017), true},
		{"lone", "t1", netip.AddrPortFrom(fours["z1/6"], 7017), false},
		{"lone", "six", netip.AddrPortFrom(sixes["z2/6"], 7007), false},
	} {
		what := fmt.Sprintf("%s to %s, without checksum: %t", c.client, c.to, c.bare)
		socket := m.datagrams(t, c.client, c.to, c.bare)
		for _, size := range []int{1, 2, 3, 63, 512, 1200, 1231} {
			payload := bytes.Repeat([]byte{0xff, 0, byte(size)}, size)[:size]
			if target, source, err := answer(socket, payload, slack*5*time.Second); err != nil || target != c.target {
				t.Errorf("%s: %d bytes: %q (%s), %v", what, size, target, source, err)
			}
		}
		live, err := m.dial(c.client, c.to, slack*5*time.Second)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := live.ask(); err != nil || live.target != c.target {
			t.Errorf("%s: TCP: %s, %v", what, live.target, err)
		}
		live.Close()
	}
}

// addressesOfClients: targets see the load balancer, or each client's own address, as the service says; and whois tells who that is
// to whom it concerns.
func (m *commandMesh) addressesOfClients(t *testing.T) {
	m.offer(t, "who", 7008, "tcp,udp", "--target dual")
	m.greet(t, "dual", 7008)
	at := m.connect(t, "shop", "who", "--ip-address-type dualstack")
	four, six := netip.AddrPortFrom(at["z1"], 7008), netip.AddrPortFrom(at["z1/6"], 7008)
	seen := func(client string, to netip.AddrPort) netip.Addr {
		t.Helper()
		c, err := m.dial(client, to, slack*5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, datagram, err := answer(m.datagrams(t, client, to, false), []byte("who?"), slack*5*time.Second)
		one, _ := api.ParseOverlay(c.source.Addr())
		other, overlay := api.ParseOverlay(datagram.Addr())
		if err != nil || one.VPC != other.VPC || one.Host != other.Host || !overlay && datagram.Addr() != c.source.Addr() {
			t.Errorf("%s: TCP comes from %s, UDP from %s, %v", client, c.source, datagram, err)
		}
		return c.source.Addr()
	}
	balancer := m.addresses(t, "pay", described[api.LoadBalancer](t, m, "pay", "load-balancer describe who").ENIs)
	if got := seen("cart", four); got != balancer["z1"] {
		t.Errorf("by default the target sees %s, want the load balancer's %s", got, balancer["z1"])
	}
	before, err := m.dial("cart", four, slack*5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	m.change(t, "pay", "service modify who --client-identity clientAddress")
	endpoint := described[api.Endpoint](t, m, "shop", "endpoint describe who").ID
	for _, c := range []struct {
		client, address, family string
		to                      netip.AddrPort
	}{{"cart", "10.0.1.5", "ipv4", four}, {"till", "10.0.2.5", "ipv4", four}, {"lone", "10.0.1.6", "ipv6", six}} {
		got := seen(c.client, c.to)
		w := described[api.Whois](t, m, "pay", "whois "+got.String())
		if w.AccountName != "shop" || w.VPCAddress.String() != c.address || w.Endpoint != endpoint || w.PacketFamily != c.family ||
			w.ServiceName != "pay/who" || w.DialedPort != 7008 || w.ENIName != "" {
			t.Errorf("the provider is told of %s, %s: %+v", c.client, got, w)
		}
		if w := described[api.Whois](t, m, "shop", "whois "+got.String()); w.ENIName != c.client || w.Endpoint != endpoint {
			t.Errorf("the owner is told of %s, %s: %+v", c.client, got, w)
		}
		if out, err := m.try(t, "noisy", "", "whois "+got.String()); err == nil {
			t.Errorf("another account is told of %s: %s", got, out)
		}
	}
	if err := before.ask(); err != nil {
		t.Errorf("a connection of before: %v", err)
	}
	m.change(t, "pay", "service modify who --client-identity loadBalancer")
	if got := seen("cart", four); got != balancer["z1"] {
		t.Errorf("set back, the target sees %s", got)
	}
}

// headersOfClients: a server that wants the PROXY protocol gets it from the service, from clients of both families, on the server's
// node and another; and is left by those who would write it themselves.
func (m *commandMesh) headersOfClients(t *testing.T) {
	m.offer(t, "proxied", 7009, "tcp", "--target dual")
	at := m.connect(t, "shop", "proxied", "--ip-address-type dualstack")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "conf"), fmt.Sprintf(`daemon off; worker_processes 1; user root; pid %[1]s/pid; error_log %[1]s/err; events {}
http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
server { listen 7009 proxy_protocol; listen [::]:7009 proxy_protocol; location / {
return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port $remote_addr"; } } }`, dir))
	m.start(t, "dual", "nginx", "-c", filepath.Join(dir, "conf"))
	fetch := func(client, to string) (string, error) {
		out, err := m.in(t.Context(), client, "curl", "-sS", "--max-time", patient(5), "-w", " %{local_port}", "http://"+to+":7009/").Output()
		return string(out), err
	}
	eventually(t, 10*time.Second, "nginx", func() error {
		_, err := m.in(t.Context(), "dual", "curl", "-sS", "--haproxy-protocol", "--max-time", seconds(2), "http://127.0.0.1:7009/").Output()
		return err
	})
	if out, err := fetch("cart", at["z1"].String()); err == nil {
		t.Errorf("without a header nginx answers %q", out)
	}
	m.change(t, "pay", "service modify proxied --client-identity proxyProtocolV2")
	six := described[api.ENI](t, m, "shop", "eni describe lone").IPv6Address.String()
	for _, c := range [][3]string{{"cart", "10.0.1.5", at["z1"].String()}, {"till", "10.0.2.5", at["z2"].String()},
		{"lone", six, at["z1/6"].String()}} {
		to := c[2]
		if strings.Contains(to, ":") {
			to = "[" + to + "]"
		}
		for range 5 {
			out, err := fetch(c[0], to)
			f := strings.Fields(out)
			if err != nil || len(f) != 6 || f[0] != c[1] || f[1] != f[5] || f[2] != c[2] || f[3] != "7009" {
				t.Errorf("%s at %s: nginx knows %q, %v", c[0], to, out, err)
			}
		}
	}
	m.change(t, "pay", "service modify proxied --client-identity loadBalancer")
	if out, err := fetch("cart", at["z1"].String()); err == nil {
		t.Errorf("set back, nginx answers %q", out)
	}
}

// groups: rules of endpoint and load balancer are asked about live connections too, which end within seconds when one goes; what
// they still allow goes on.
func (m *commandMesh) groups(t *testing.T) {
	m.run(t, "shop", "sg create door --vpc shop")
	m.run(t, "shop", "sg authorize door --ingress --port 7013 --cidr 10.0.1.0/24")
	m.run(t, "shop", "sg authorize door --ingress --port 7013 --cidr 10.0.2.0/24")
	m.run(t, "pay", "sg create gate --vpc pay")
	m.run(t, "pay", "sg authorize gate --ingress --port 7013 --cidr 10.0.1.0/24")
	m.run(t, "pay", "sg authorize gate --ingress --port 7013 --cidr 10.0.2.0/24")
	m.run(t, "pay", "target-group create groups-tcp --vpc pay --port 7013 --health-check=false --target t1 --target t3")
	m.run(t, "pay", "load-balancer create groups --subnet pay-1 --subnet pay-2 --sg gate --listener 7013:groups-tcp")
	m.run(t, "pay", "service create groups --load-balancer groups --allow shop")
	m.greet(t, "t1", 7013)
	m.greet(t, "t3", 7013)
	vip := netip.AddrPortFrom(m.connect(t, "shop", "groups", "--sg door")["z1"], 7013)
	others := m.converse(t, "till", vip, 8, false)
	rule := func(account, group string, egress bool, i int) string {
		g := described[api.SecurityGroup](t, m, account, "sg describe "+group)
		if egress {
			return g.Egress[i].ID
		}
		return g.Ingress[i].ID
	}
	for _, c := range []struct {
		account, group string
		reason         string
	}{{"shop", "door", "ENDPOINT_GROUP"}, {"pay", "gate", "LB_GROUP_INGRESS"}} {
		live := m.converse(t, "cart", vip, 8, false)
		m.change(t, c.account, "sg authorize "+c.group+" --ingress --port 7100 --cidr 10.0.0.0/16")
		if err := live.whole(""); err != nil {
			t.Errorf("%s: a rule more: %v", c.group, err)
		}
		m.change(t, c.account, "sg revoke "+c.group+" "+rule(c.account, c.group, false, 0))
		if c.account == "shop" {
			ends(t, live, c.group+" does not let cart in any more")
		} else { // the client's own node does not know, and the other one does not answer
			cut(t, live, c.group+" does not let cart in any more")
		}
		if _, err := m.dial("cart", vip, time.Second); err == nil {
			t.Errorf("%s does not let cart in any more, and it comes through", c.group)
		}
		m.refused(t, c.account, c.reason, "", "groups")
		m.change(t, c.account, "sg authorize "+c.group+" --ingress --port 7013 --cidr 10.0.1.5/32")
		if got := m.shares(t, "cart", vip, 12); whose(got) != "t1 t3" {
			t.Errorf("%s lets cart in again, which comes to %v", c.group, got)
		}
		// The rule that was first is gone, and the one for till is first: put it behind.
		m.change(t, c.account, "sg authorize "+c.group+" --ingress --port 7013 --cidr 10.0.2.5/32")
		m.change(t, c.account, "sg revoke "+c.group+" "+rule(c.account, c.group, false, 0))
		if err := others.whole(""); err != nil {
			t.Errorf("%s: till was always allowed: %v", c.group, err)
		}
	}
	m.change(t, "pay", "sg revoke gate "+rule("pay", "gate", true, 0))
	cut(t, others, "the load balancer may not send any more")
	if _, err := m.dial("till", vip, time.Second); err == nil {
		t.Error("the load balancer may not send any more, and a target is reached")
	}
	m.refused(t, "pay", "LB_GROUP_EGRESS", "", "groups")
	m.change(t, "pay", "sg authorize gate --egress --port 7013 --sg default")
	if got := m.shares(t, "till", vip, 12); whose(got) != "t1 t3" {
		t.Errorf("the load balancer may send again, till comes to %v", got)
	}
}

// icmp: a rule for a type of ICMP allows that type; what only listens to it is cut with it.
func (m *commandMesh) icmp(t *testing.T) {
	m.run(t, "shop", "sg create quiet --vpc shop")
	m.change(t, "shop", "eni modify pinged --sg quiet")
	pinged := described[api.ENI](t, m, "shop", "eni describe pinged")
	for _, c := range []struct {
		client, protocol string
		address          netip.Addr
		cidr             string
		wrong, right     string
	}{
		{"cart", "icmp", pinged.Address, "10.0.0.0/16", "--icmp-type 13", "--icmp-type 8 --icmp-code 0"},
		{"lone", "icmpv6", pinged.IPv6Address, "::/0", "--icmp-type 129", "--icmp-type 128"},
	} {
		ping := func(more ...string) *exec.Cmd {
			return m.in(t.Context(), c.client, append([]string{"ping", "-n"}, append(more, c.address.String())...)...)
		}
		rule := func(kind string) {
			m.change(t, "shop", "sg authorize quiet --ingress --protocol "+c.protocol+" "+kind+" --cidr "+c.cidr)
		}
		if out, err := ping("-c1", "-W1").CombinedOutput(); err == nil {
			t.Errorf("%s: without a rule: %s", c.protocol, out)
		}
		rule(c.wrong)
		if out, err := ping("-c1", "-W1").CombinedOutput(); err == nil {
			t.Errorf("%s: with a rule for another type: %s", c.protocol, out)
		}
		rule(c.right)
		if out, err := ping("-c3", "-i0.2", "-W"+seconds(2)).CombinedOutput(); err != nil {
			t.Errorf("%s: with a rule: %v: %s", c.protocol, err, out)
		}
		running := ping("-i0.2", "-w8")
		stdout, err := running.StdoutPipe()
		if err == nil {
			err = running.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for lines.Scan() && !strings.Contains(lines.Text(), "bytes from") { // the first one that was answered
		}
		rules := described[api.SecurityGroup](t, m, "shop", "sg describe quiet").Ingress
		m.change(t, "shop", "sg revoke quiet "+rules[len(rules)-1].ID)
		var sent, got int
		for lines.Scan() {
			_, _ = fmt.Sscanf(lines.Text(), "%d packets transmitted, %d received", &sent, &got)
		}
		_ = running.Wait() // it fails when nothing was answered
		if got == 0 || got > sent-10 {
			t.Errorf("%s: of %d echo requests under a rule that went %d were answered", c.protocol, sent, got)
		}
	}
}
