package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/api/client"
	"github.com/culvert-net/culvert/audit/treelog"
	"github.com/culvert-net/culvert/audit/witness"
	"github.com/culvert-net/culvert/internal/badinput"
)

// line is a command line with its environment and standard input.
type line struct {
	args []string
	env  []string // NAME=VALUE
	in   string
}

// refusal runs it and returns its refusal, nil when it succeeds.
func (l line) refusal(t *testing.T) error {
	t.Helper()
	for _, kv := range l.env {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	status := Main(ctx, append([]string{"-o", "json"}, l.args...), Streams{In: strings.NewReader(l.in), Out: &out, Err: &errs})
	if status == 0 {
		return nil
	}
	if out.Len() > 0 {
		t.Errorf("a refusal on standard output: %q", out.String())
	}
	var answer struct {
		Error *api.Error `json:"error"`
	}
	if err := json.Unmarshal(errs.Bytes(), &answer); err != nil || answer.Error == nil {
		t.Fatalf("status %d, not an error: %q", status, errs.String())
	}
	return answer.Error
}

// badLines is the shape of the tables below.
type badLines struct {
	t    *testing.T
	dir  string
	rows []badinput.Row[line]
}

func (b *badLines) add(code api.ErrorCode, field, remedy, args string, more ...string) {
	words := strings.Fields(strings.ReplaceAll(args, "$DIR", b.dir))
	for i, w := range words {
		words[i] = strings.NewReplacer("''", "", "␣", " ", "␀", "\x00", "␊", "\n").Replace(w)
	}
	b.rows = append(b.rows, badinput.Row[line]{Name: strings.TrimSpace(args + " " + strings.Join(more, " ")), In: line{args: words,
		env: more},
		Code: code, Field: field, Remedy: remedy})
}

// files is what lies below a directory, sockets and the server's own left out.
func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == filepath.Join(dir, "server") {
			return fs.SkipDir
		}
		info, err := d.Info()
		out = append(out, fmt.Sprint(path, info.Mode(), info.Size()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestBadCommandLines: what a person mistypes is refused by the flag or argument that it is about, and changes neither a resource
// nor a file.
func TestBadCommandLines(t *testing.T) {
	dir := t.TempDir()
	clearEnvironment(t, dir)
	address, caFile, key := startServer(t, dir)
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(client.Config{Address: address, CA: pem, APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if _, err := admin.CreateAccount(t.Context(), api.CreateAccountRequest{Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	for _, kv := range [][2]string{{"CULVERT_SERVER", address}, {"CULVERT_CA", caFile}, {"CULVERT_API_KEY", key},
		{"CULVERT_ACCOUNT", "shop"}} {
		t.Setenv(kv[0], kv[1])
	}
	for name, text := range map[string]string{"garbage": "\x00\xff", "empty": "",
		"pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	logKey := treelog.VerifierKey("mesh.example/log", ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey))
	witnessKey := witness.VerifierKey("w.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)).Public().(ed25519.PublicKey))
	for name, text := range map[string]string{"logkey": logKey + "\n", "bothkeys": logKey + "\n" + witnessKey + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &badLines{t: t, dir: dir}
	resourceLines(b)
	serverLines(b)
	state := func() any {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		v, err1 := admin.ListVPCs(ctx)
		tokens, err2 := admin.ListTokens(ctx)
		accounts, err3 := admin.ListAccounts(ctx)
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}
		return fmt.Sprint(v, tokens, accounts, files(t, dir))
	}
	badinput.Table(t, b.rows, state, func(t *testing.T, l line) error { return l.refusal(t) })
}

const (
	codeBad     = api.CodeInvalidParameter
	codeMissing = api.CodeMissingParameter
	codeBoth    = api.CodeInvalidCombination
)

func resourceLines(b *badLines) {
	const bad, missing, both = codeBad, codeMissing, codeBoth
	for _, c := range []string{"10.0.0.0", "10.0.0.0/33", "010.0.0.0/16", "''", "10.0.0.0/16␊", "10.0.0.0/-1", "fe80::1%eth0/64"} {
		b.add(bad, "--cidr", "ADDRESS/BITS", "vpc create shop --cidr "+c)
	}
	b.add(api.CodeVPCRange, "--cidr", "write 10.0.0.0/16", "vpc create shop --cidr 10.0.0.1/16")
	b.add(api.CodeVPCRange, "--cidr", "192.168.0.0/16", "vpc create shop --cidr 8.8.0.0/16")
	b.add(missing, "--cidr", "for example", "vpc create shop")
	b.add(bad, "NAME", "lower-case letters", "vpc create Shop --cidr 10.0.0.0/16")
	b.add(bad, "NAME", "lower-case letters", "vpc create a/b --cidr 10.0.0.0/16")
	b.add(bad, "NAME", "lower-case letters", "vpc create sh\u043ep --cidr 10.0.0.0/16")
	b.add(bad, "NAME", "lower-case letters", "vpc create \u202eshop --cidr 10.0.0.0/16")
	b.add(bad, "NAME", "lower-case letters", "vpc create \x1b[2J --cidr 10.0.0.0/16")
	b.add(bad, "--tag", "--help", "vpc create shop --cidr 10.0.0.0/16 --tag novalue")
	b.add(bad, "--tag", "printable", "vpc create shop --cidr 10.0.0.0/16 --tag =x")
	b.add(bad, "--forwarder", "tls://", "vpc create shop --cidr 10.0.0.0/16 --forwarder 1.1.1.1")
	b.add(missing, "--resource", "for example", "flow-log create all")
	b.add(bad, "NAME", "lower-case", "flow-log create All --resource account")
	b.add(bad, "--resource", "vpc/NAME", "flow-log create all --resource shop")
	b.add(bad, "--resource", "vpc/NAME", "flow-log create all --resource node/a")
	b.add(api.CodeVPCNotFound, "--resource", "culvert vpc list", "flow-log create all --resource vpc/nothing")
	b.add(bad, "--traffic-type", "REJECT", "flow-log create all --resource account --traffic-type DROP")
	b.add(bad, "--max-aggregation-interval", "600s", "flow-log create all --resource account --max-aggregation-interval 30s")
	b.add(bad, "--max-aggregation-interval", "10m", "flow-log create all --resource account --max-aggregation-interval 100ms")
	b.add(bad, "--log-format", "${name}", "flow-log create all --resource account --log-format srcaddr")
	b.add(bad, "--log-format", "once", "flow-log create all --resource account --log-format ${srcaddr}␣${srcaddr}")
	b.add(bad, "--destination", "--flow-log-directory", "flow-log create all --resource account --destination /srv/x")
	b.add(bad, "--destination", "directory", "flow-log create all --resource account --destination ../x")
	b.add(bad, "--destination", "--flow-log-stream", "flow-log create all --resource account --destination-type stream --file-format json "+
		"--destination tcp://192.0.2.1:9")
	b.add(bad, "--destination", "--s3-config", "flow-log create all --resource account --destination-type s3 --destination s3://logs/x")
	b.add(bad, "--destination", "s3://BUCKET", "flow-log create all --resource account --destination-type s3 --destination logs")
	b.add(bad, "--destination-type", "stream", "flow-log create all --resource account --destination-type tape")
	b.add(both, "--file-format", "json", "flow-log create all --resource account --destination-type stream")
	b.add(bad, "--file-format", "json", "flow-log create all --resource account --file-format xml")
	b.add(bad, "--on-loss", "refuse", "flow-log create all --resource account --on-loss panic")
	b.add(api.CodeFlowLogNotFound, "LOG", "culvert flow-log list", "flow-log modify nothing --per-hour-partition")
	b.add(bad, "DOMAIN", "lower case", "resolver-rule create Corp.example.com --forwarder tls://9.9.9.9")
	b.add(bad, "--forwarder", "tls://", "resolver-rule create corp.example.com --forwarder 9.9.9.9")
	b.add(bad, "--forwarder", "once", "resolver-rule create corp.example.com --forwarder tls://9.9.9.9 --forwarder tls://9.9.9.9")
	b.add(missing, "--forwarder", "for example", "resolver-rule create corp.example.com")
	b.add(missing, "--vpc", "for example", "resolver-rule associate corp.example.com")
	b.add(api.CodeVPCNotFound, "--vpc", "culvert vpc list", "resolver-rule create corp.example.com --forwarder tls://9.9.9.9 --vpc nothing")
	b.add(api.CodeResolverRuleNotFound, "RULE", "culvert resolver-rule list", "resolver-rule modify nothing --forwarder tls://9.9.9.9")
	b.add(bad, "NAME", "lower-case letters", "query-log create Shop")
	b.add(missing, "--vpc", "for example", "query-log associate shop")
	b.add(api.CodeVPCNotFound, "--vpc", "culvert vpc list", "query-log create shop --vpc nothing")
	b.add(api.CodeQueryLogNotFound, "LOG", "culvert query-log list", "query-log delete nothing")
	b.add(bad, "--since", "15m", "queries find --since yesterday")
	b.add(bad, "--client", "10.0.1.5", "queries find --client cart")
	b.add(bad, "--firewall", "ALLOW, BLOCK or ALERT", "queries find --firewall DENY")
	b.add(bad, "PRIORITY", "1 to 10000", "dns-firewall rule put g ten ALLOW example.com")
	b.add(bad, "PRIORITY", "1 to 10000", "dns-firewall rule delete g -- -1")
	b.add(missing, "", "for example", "dns-firewall rule put g 10 ALLOW")
	b.add(bad, "", "for example", "dns-firewall rule put g 10 ALLOW example.com --domain-list trackers")
	b.add(bad, "--priority", "--help", "dns-firewall associate g --vpc shop --priority first")
	b.add(missing, "", "for example", "dns-firewall domain-list add trackers")
	b.add(bad, "NAME", "lower-case letters", "dns-firewall domain-list create Trackers")
	b.add(api.CodeDomainListNotFound, "LIST", "culvert dns-firewall domain-list list", "dns-firewall domain-list add nothing example.com")
	b.add(api.CodeFirewallNotFound, "GROUP", "culvert dns-firewall list", "dns-firewall rule put nothing 10 ALLOW example.com")
	b.add(bad, "--cidr", "ADDRESS/BITS", "vpc create 10.0.0.0/16 --cidr shop") // exchanged
	b.add(bad, "", "for example", "vpc create shop extra --cidr 10.0.0.0/16")
	b.add(bad, "", "--help", "vpc create --name shop --cidr 10.0.0.0/16")
	b.add(bad, "", "--help", "vpc create shop --cidr")
	b.add(bad, "", "did you mean", "vpc creat shop")
	b.add(bad, "", "did you mean culvert vpc", "vpx list")
	b.add(bad, "", "did you mean", "vpc ''")
	b.add(missing, "", "for example", "vpc describe")
	b.add(missing, "VPC", "variable of the shell", "vpc describe ''")
	b.add(api.CodeVPCNotFound, "VPC", "culvert vpc list", "vpc describe ../accounts")
	b.add(api.CodeVPCNotFound, "VPC", "culvert vpc list", "vpc describe ?dryRun=x")
	b.add(api.CodeVPCNotFound, "VPC", "culvert vpc list", "vpc delete vpc-00000000000000000")
	b.add(both, "--quiet", "leave out one", "vpc list -q")
	b.add(bad, "--timeout", "--help", "vpc create shop --cidr 10.0.0.0/16 --wait --timeout soon")
	b.add(bad, "--timeout", "--help", "vpc create shop --cidr 10.0.0.0/16 --wait --timeout 5")
	b.add(bad, "--idempotency-key", "UUID", "vpc create shop --cidr 10.0.0.0/16 --idempotency-key a/b")
	b.add(api.CodeAccountNotFound, "--account", "account list", "vpc list --account nobody")
	b.add(bad, "ENI", "ledger-1:8443", "target-group register g e:0")
	b.add(bad, "ENI", "ledger-1:8443", "target-group register g e:65536")
	b.add(bad, "ENI", "ledger-1:8443", "target-group register g e:http")
	b.add(bad, "ENI", "ledger-1:8443", "target-group register g e:")
	b.add(missing, "", "for example", "target-group register g")
	b.add(bad, "--port", "--help", "target-group create g --vpc v --port 65536")
	b.add(bad, "--port", "--help", "target-group create g --vpc v --port -1")
	b.add(bad, "--port", "--help", "target-group create g --vpc v --port 080x")
	for _, l := range []string{"443", "0:g", "65536:g", "443:", ":g", "tcp/443:g", "-443:g", "443/tcp"} {
		b.add(bad, "--listener", "443:ledger", "load-balancer create lb --vpc v --listener "+l)
	}
	for _, p := range []string{"0", "65536", "80-79", "-80", "80-", "1-2-3", "http", "1,2", "0x50", "\u0661"} {
		b.add(bad, "--port", "443 or 8000-8100", "sg authorize web --ingress --cidr 10.0.0.0/8 --port "+p)
	}
	b.add(both, "--port", "leave it out", "sg authorize web --ingress --cidr 10.0.0.0/8 --protocol icmp --port 8")
	b.add(both, "--ingress", "--egress", "sg authorize web --cidr 10.0.0.0/8")
	b.add(both, "--ingress", "--egress", "sg authorize web --ingress --egress --cidr 10.0.0.0/8")
	b.add(bad, "--address", "10.0.1.5", "eni create e --subnet s --address 10.0.1")
	b.add(bad, "--address", "10.0.1.5", "eni create e --subnet s --address localhost")
	b.add(both, "--netns", "--pid", "eni attach e")
	b.add(both, "--netns", "--pid", "eni attach e --pid 0")
	b.add(both, "--netns", "--pid", "eni attach e --netns cart --pid 1")
	b.add(bad, "--pid", "as ps shows", "eni attach e --pid -1")
	b.add(bad, "--pid", "as ps shows", "eni attach e --pid 4194305")
	b.add(bad, "--pid", "--help", "eni attach e --pid self")
	b.add(bad, "--since", "15m", "flows query --since yesterday")
	b.add(bad, "--since", "15m", "flows query --since -5m")
	b.add(missing, "--keys", "public keys", "flows verify $DIR")
	b.add(missing, "", "mesh.keys", "flows verify --keys $DIR/garbage")
	b.add(bad, "--keys", "can be read", "flows verify $DIR --keys $DIR/absent")
	b.add(bad, "--keys", "culvert log-key", "flows verify $DIR --keys $DIR/garbage")
	b.add(bad, "--keys", "culvert log-key", "flows verify $DIR --keys $DIR/empty")
	b.add(bad, "--since", "15m", "flows verify $DIR --keys $DIR/garbage --since March")
	b.add(bad, "--until", "15m", "flows verify $DIR --keys $DIR/garbage --until March")
	b.add(both, "--witness", "--print-key", "flows verify $DIR --keys $DIR/logkey --witness $DIR/absent")
	b.add(both, "--witness-ca", "--witness", "flows verify $DIR --keys $DIR/logkey --witness-ca $DIR/pem")
	b.add(bad, "--witness-ca", "PEM", "flows verify $DIR --keys $DIR/bothkeys --witness https://192.0.2.1 --witness-ca $DIR/garbage")
	for _, w := range []string{"$DIR/absent", "$DIR/empty", "$DIR", "ftp://192.0.2.1"} {
		b.add(bad, "--witness", "http://", "flows verify $DIR --keys $DIR/bothkeys --witness "+w)
	}
	for _, w := range []string{"http://", "http://192.0.2.1/?a=b", "http://user@192.0.2.1"} {
		b.add(bad, "--witness", "of this log that answers", "flows verify $DIR --keys $DIR/bothkeys --witness "+w)
	}
	for _, d := range []string{"1m", "-5m"} {
		b.add(bad, "--longest-pause", "2m0s", "flows verify $DIR --keys $DIR/logkey --longest-pause "+d)
	}
	b.add(both, "--until", "after --since", "flows verify $DIR --keys $DIR/garbage --since 1h --until 2h")
	b.add(bad, "--ttl", "--help", "token create --ttl 5")
	b.add(bad, "--ttl", "60s", "token create --ttl 1s")
	b.add(bad, "--ttl", "60s", "token create --ttl -1h")
	b.add(bad, "--node", "lower case", "token create --node Host_A")
	b.add(bad, "SHELL", "bash, zsh or fish", "completion tcsh")
}

func serverLines(b *badLines) {
	const bad, missing, both = codeBad, codeMissing, codeBoth
	// Settings of the commands that ask a server.
	for _, s := range []string{"http://192.0.2.1", "192.0.2.1:7443/path", "ftp://192.0.2.1", "unix:", "https://",
		"https://user:secret@192.0.2.1", "https://192.0.2.1:65536"} {
		b.add(bad, "--server", "https://HOST:PORT", "vpc list", "CULVERT_SERVER="+s)
	}
	b.add(missing, "--api-key", "CULVERT_API_KEY", "vpc list", "CULVERT_API_KEY=")
	b.add(bad, "--api-key", "one line", "vpc list", "CULVERT_API_KEY=a\r\nb")
	b.add(api.CodeAuthFailure, "", "check the key", "vpc list", "CULVERT_API_KEY=nonsense")
	for _, file := range []string{"absent", "garbage", "empty", "pem", ""} {
		b.add(bad, "--ca", "ca.pem", "vpc list", "CULVERT_CA="+filepath.Join(b.dir, file))
	}
	b.add(bad, "--account", "account's id or name", "vpc list", "CULVERT_ACCOUNT=a\r\nb")
	// The server's own.
	for _, d := range []string{"--view-max-age", "--acceptance-timeout", "--flow-retention"} {
		b.add(bad, d, "1m", "server --data-dir $DIR/new "+d+" 59s")
		b.add(bad, d, "1m", "server --data-dir $DIR/new "+d+" -1h")
		b.add(bad, d, "--help", "server --data-dir $DIR/new "+d+" 1d")
	}
	for _, l := range []string{"7443", "host", "unix:", "192.0.2.1:65536", "192.0.2.1:-1", "https://192.0.2.1:7443", "''",
		"192.0.2.1:http"} {
		b.add(bad, "--listen", "HOST:PORT", "server --data-dir $DIR/new --listen "+l)
	}
	for _, n := range []string{"''", "a␣b", "a+b"} {
		b.add(bad, "--name", "witness.example.org", "witness --logs $DIR/garbage --name "+n)
	}
	b.add(bad, "--logs", "public keys", "witness --name w")
	b.add(bad, "--logs", "public keys", "witness --name w --logs $DIR/absent")
	b.add(bad, "--logs", "culvert log-key", "witness --name w --logs $DIR/garbage")
	b.add(both, "--tls-cert", "both", "witness --name w --logs $DIR/logkey --tls-cert $DIR/pem")
	b.add(bad, "--tls-cert", "PEM", "witness --name w --logs $DIR/logkey --tls-cert $DIR/garbage --tls-key $DIR/garbage")
	b.add(both, "--witness-ca", "--witness", "server --data-dir $DIR/new --witness-ca $DIR/pem")
	b.add(bad, "--witness-ca", "PEM", "server --data-dir $DIR/new --witness-ca $DIR/garbage --witness k␣http://192.0.2.1")
	b.add(bad, "--state-dir", "witness's own", "witness --name w --print-key --state-dir $DIR/garbage")
	b.add(bad, "--log-level", "debug", "witness --name w --log-level loud")
	b.add(bad, "--log-level", "debug", "server --data-dir $DIR/new --log-level loud")
	b.add(bad, "--log-format", "text or json", "server --data-dir $DIR/new --log-format xml")
	b.add(bad, "--region", "lower-case", "server --data-dir $DIR/new --region EU/1")
	b.add(bad, "--data-dir", "directory", "server --data-dir $DIR/garbage")
	b.add(bad, "--data-dir", "directory", "server --data-dir ''")
	b.add(bad, "--s3-config", "only this user", "server --data-dir $DIR/new --s3-config $DIR/absent")
	b.add(bad, "--admin-key-file", "name a file", "server --data-dir $DIR/new --admin-key-file $DIR")
	b.add(bad, "--admin-key-file", "directory", "server --data-dir $DIR/new --admin-key-file /proc/nothing/key")
	b.add(both, "--etcd-endpoints", "none of these", "server --data-dir $DIR/new --etcd-ca $DIR/pem")
	b.add(bad, "--etcd-endpoints", "https://", "server --data-dir $DIR/new --etcd-endpoints 192.0.2.1:2379")
	b.add(both, "--etcd-endpoints", "https://", "server --data-dir $DIR/new --etcd-endpoints https://192.0.2.1:2379,http://192.0.2.2:2379")
	b.add(both, "--etcd-cert", "both", "server --data-dir $DIR/new --etcd-endpoints https://192.0.2.1:2379 --etcd-cert $DIR/pem")
	b.add(bad, "--etcd-ca", "PEM", "server --data-dir $DIR/new --etcd-endpoints https://192.0.2.1:2379 --etcd-ca $DIR/garbage")
	b.add(bad, "--etcd-ca", "PEM", "server --data-dir $DIR/new --etcd-endpoints https://192.0.2.1:2379 --etcd-ca $DIR/absent")
	b.add(bad, "--etcd-cert", "PEM", "server --data-dir $DIR/new --etcd-endpoints https://192.0.2.1:2379 --etcd-cert $DIR/pem --etcd-key $DIR/pem")
	b.add(bad, "--server-name", "name or address", "server --data-dir $DIR/new --server-name a␣b")
	// A mesh on this machine.
	for _, p := range []string{"Upper", "a/b", "..", "averyveryverylongone", "-x", "a␣b"} {
		b.add(bad, "--prefix", "12 of a-z", "dev status --prefix "+p)
	}
	b.add(bad, "--prefix", "12 of a-z", "dev status", "CULVERT_DEV_PREFIX=../x")
	b.add(bad, "--hosts", "1 to 26", "dev up --hosts 0 --prefix badinput")
	b.add(bad, "--hosts", "1 to 26", "dev up --hosts 27 --prefix badinput")
	b.add(bad, "--hosts", "--help", "dev up --hosts many --prefix badinput")
	b.add(missing, "", "for example", "dev exec")
}
