package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/audit/verify"
)

// verifyFlags say what is verified.
type verifyFlags struct {
	keys, node   string
	since, until string
	asOf         string
	checkpoint   string
	witnesses    []string
	witnessCA    string
	pause        time.Duration
}

func (a *app) flowsVerify() *cobra.Command {
	var f verifyFlags
	c := command("verify DIR --keys FILE", "Prove from files that no flow record was changed or left out", `
Judge a directory of evidence, or a copy that culvert flows export made, without any server: that the log is one tree
and signed, that every segment of records is what its node sealed, that none is missing, that records and declared
losses are what the datapath counted, and that deliveries are what was delivered. The exit status is 0 when all of it
holds, else 1; then the first bad segment is named, and the others behind it.

FILE has the public keys that you believe, one a line: the log's, which culvert log-key prints, those of witnesses, and
the mesh's CA as it stands in ca.pem, by which nodes' keys are judged.
Take it from somebody else than the one who gave you DIR. The log is judged as a whole; --since, --until and --node
narrow which segments are. What ends with an older checkpoint holds, too: so say how far the log must go, with --as-of,
with a checkpoint that you kept (a copy of DIR/log/checkpoint of an earlier time, or of another place), or with
--witness: what a witness cosigned last, or last before --as-of, must be in the log. A node that sealed nothing for a
while is told of; with --longest-pause longer pauses are findings.

Verify a copy, or while the server is stopped: of one that runs the newest seals and segments may not be there yet,
which the command says. What is checked, and what nobody can prove this way, is in docs/EVIDENCE.md.`, `
  culvert flows verify march --keys mesh.keys
  culvert flows verify march --keys mesh.keys --node i-0a1b2c3d4e5f60718
  culvert flows verify march --keys mesh.keys --as-of 2026-04-01T00:00:00Z --checkpoint kept.checkpoint
  culvert flows verify march --keys mesh.keys --as-of 2026-04-01T00:00:00Z --witness https://witness.example.org:7450
  culvert flows verify march --keys mesh.keys --longest-pause 10m
  culvert flows verify march --keys mesh.keys -o json`,
		func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), args[0], &f) })
	fs := c.Flags()
	fs.StringVar(&f.keys, "keys", "", "`file` with the public keys of the log and of witnesses")
	fs.StringVar(&f.since, "since", "", "segments that were sealed from this `time` on, or so long ago")
	fs.StringVar(&f.until, "until", "", "segments that were sealed before this `time`, or so long ago")
	fs.StringVar(&f.node, "node", "", "segments of this `node`, id")
	fs.StringVar(&f.asOf, "as-of", "", "the log must go up to this `time`, or so long ago, less a minute")
	fs.StringVar(&f.checkpoint, "checkpoint", "", "the log must go on from the signed checkpoint in this `file`, kept elsewhere")
	fs.StringArrayVar(&f.witnesses, "witness", nil, "the log must go on from what the witness at this `URL`, or in this file, cosigned (may repeat)")
	fs.StringVar(&f.witnessCA, "witness-ca", "", "`file` with the CA of witnesses at https://; none: those that this machine trusts")
	fs.DurationVar(&f.pause, "longest-pause", 0, "a node that sealed nothing for longer is a finding, such as 10m; 0: it is told, and none")
	must(c.MarkFlagFilename("witness"))
	must(c.MarkFlagFilename("witness-ca"))
	must(c.MarkFlagFilename("checkpoint"))
	must(c.MarkFlagFilename("keys"))
	c.Args = exactly("DIR")
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return c
}

func (a *app) verify(ctx context.Context, dir string, f *verifyFlags) error {
	if f.keys == "" {
		return api.Errorf(api.CodeMissingParameter, "--keys", "give the file with the public keys", "without keys nothing is proven")
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(f.keys)
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, "--keys", "name a file that can be read", "%v", err)
	}
	keys, err := verify.ParseKeys(string(text))
	if err != nil {
		return api.Errorf(api.CodeInvalidParameter, "--keys", "write one verifier key a line, as culvert log-key prints it", "%s: %v", f.keys, err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return api.Errorf(api.CodeInvalidParameter, "DIR", "name a directory of evidence, which has log and segments in it", "%s is none", dir)
	}
	if o.Kept, err = f.witnessed(ctx, keys, o.AsOf); err != nil {
		return err
	}
	if isWritten(dir) {
		fmt.Fprintf(a.Err, "A server writes to %s now: seals and segments that come meanwhile are findings, and none of anybody's making. "+
			"Take a copy of one moment: culvert flows export.\n", dir)
	}
	r := verify.Run(os.DirFS(dir), keys, o)
	if err := a.print(r, func(w io.Writer) error { return r.Transcript(w) }); err != nil {
		return fmt.Errorf("write the transcript: %w", err)
	}
	if !r.OK {
		return exitStatus(1)
	}
	return nil
}

// options are what flags say, without what witnesses tell.
func (f *verifyFlags) options() (o verify.Options, err error) {
	o = verify.Options{Node: f.node, Pause: f.pause}
	if f.pause != 0 && f.pause < verify.LeastPause {
		return o, api.Errorf(api.CodeInvalidParameter, "--longest-pause", fmt.Sprintf("give %s or more, or 0", verify.LeastPause),
			"nodes seal once a minute, so %s is no pause", f.pause)
	}
	now := time.Now()
	if o.Since, err = parseTime("--since", f.since, now); err != nil {
		return o, err
	}
	if o.Until, err = parseTime("--until", f.until, now); err != nil {
		return o, err
	}
	if !o.Since.IsZero() && !o.Until.IsZero() && !o.Since.Before(o.Until) {
		return o, api.Errorf(api.CodeInvalidCombination, "--until", "give a time after --since", "nothing is between %s and %s", f.since, f.until)
	}
	if o.AsOf, err = parseTime("--as-of", f.asOf, now); err != nil {
		return o, err
	}
	if f.checkpoint != "" {
		kept, err := os.ReadFile(f.checkpoint)
		if err != nil || len(kept) == 0 {
			return o, api.Errorf(api.CodeInvalidParameter, "--checkpoint", "name a signed checkpoint of the log, as log/checkpoint is one",
				"%s cannot be read, or is empty", f.checkpoint)
		}
		o.Checkpoint = string(kept)
	}
	return o, nil
}
