// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// The crash test starts this test binary as child processes: gateways without HTTP. Each child does what a
// caller would do next with the only broadcast: it creates it, uploads the audience in parts, validates and
// starts it, pauses and resumes it at random, and recalls it. The test kills children at random times and
// restarts them. The children append what their sender received to a file. The last child lets the
// broadcast end, and writes its results. In a cluster three children do so at the same time.

const (
	crashDirEnv   = "SLUICE_CRASH_DIR"   // set in the child: its directory
	crashURLEnv   = "SLUICE_CRASH_URL"   // set in the child of a cluster
	crashSeedEnv  = "SLUICE_CRASH_SEED"  // set in the child: decides what it does
	crashLastEnv  = "SLUICE_CRASH_LAST"  // set in the last child
	crashSeedsEnv = "SLUICE_CRASH_SEEDS" // the number of seeds; set by make crash

	crashLines = 600
	crashKills = 5
	crashFile  = "arrived"
)

// crashResult is what the last child writes.
type crashResult struct {
	View    *broadcast.View
	Results []broadcast.LineResult
	Devices *broadcast.Devices
}

// crashSender records what it receives, and then answers by the token.
type crashSender struct {
	arrived *os.File
}

func (crashSender) Check(*push.Notification) error { return nil }

func (s crashSender) Send(_ context.Context, c *push.Call) *push.Receipt {
	r := &c.Receipt
	*r = push.Receipt{ID: c.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
	if c.BeforeAttempt(1) == nil {
		s.attempt(c)
	}
	return r
}

func (s crashSender) attempt(c *push.Call) {
	if _, err := s.arrived.WriteString(c.Title + ":" + c.Token + "\n"); err != nil {
		panic(err)
	}
	time.Sleep(rand.N(3 * time.Millisecond)) // a kill in this time leaves the attempt in doubt
	o := answerOf(c.Token)
	if c.Title == "Sorry" && o.Verdict == push.Unavailable {
		o.Verdict = push.Accepted
	}
	c.Receipt = push.Receipt{ID: c.ID, Outcome: o, Attempts: []push.Attempt{{Outcome: o}}}
}

func (s crashSender) SendAll(_ context.Context, calls []*push.Call, ended func([]*push.Call)) {
	errs := calls[0].BeforeRun(calls)
	var all sync.WaitGroup
	for i, c := range calls {
		all.Go(func() {
			c.Receipt = push.Receipt{ID: c.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
			if errs == nil || errs[i] == nil {
				s.attempt(c)
			}
			ended([]*push.Call{c})
		})
	}
	all.Wait()
}

// answerOf returns the outcome of each attempt at a token.
func answerOf(token string) push.Outcome {
	h := fnv.New32a()
	_, _ = h.Write([]byte(token))
	switch h.Sum32() % 20 {
	case 0:
		return push.Outcome{Verdict: push.Unregistered, Reason: "UNREGISTERED"}
	case 1:
		return push.Outcome{Verdict: push.Unknown, Reason: "Timeout"}
	case 2:
		return push.Outcome{Verdict: push.Unavailable, Reason: "UNAVAILABLE"} // until it is cancelled
	}
	return push.Outcome{Verdict: push.Accepted}
}

// runChild is the main function of the child process.
func runChild(dir string) error {
	ctx, seed, last := context.Background(), os.Getenv(crashSeedEnv), os.Getenv(crashLastEnv) != ""
	shared := filepath.Dir(dir)
	arrived, err := os.OpenFile(filepath.Join(shared, crashFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cfg := nodeConfig{dir: dir, url: os.Getenv(crashURLEnv), sender: crashSender{arrived}, logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	n, err := openNode(ctx, cfg)
	for err != nil && cfg.url != "" { // the cluster may be electing a leader
		time.Sleep(100 * time.Millisecond)
		n, err = openNode(ctx, cfg)
	}
	if err != nil {
		return err
	}
	go func() { _ = n.run(ctx) }()
	number, _ := strconv.ParseUint(seed, 10, 64)
	random := rand.New(rand.NewPCG(number, uint64(time.Now().UnixNano())))
	for began := time.Now(); ; {
		v, err := step(ctx, n, random, number, last)
		if last && err == nil && v != nil && v.State.IsFinal() && !v.FinishedAt.IsZero() && (v.InRecall || number%3 == 0) {
			return writeResults(ctx, n, v.ID, shared)
		}
		if last && time.Since(began) > time.Minute {
			text, _ := json.Marshal(v)
			return fmt.Errorf("the broadcast has not ended: %w: %s", err, text)
		}
		time.Sleep(time.Duration(random.Int64N(int64(20 * time.Millisecond))))
	}
}

// step does what a caller would do next. Errors are those of a gateway that is killed or of a command that
// another caller was faster with.
func step(ctx context.Context, n *node, random *rand.Rand, seed uint64, last bool) (*broadcast.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, err := n.List(ctx, app)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		if os.Getenv(crashURLEnv) != "" && filepath.Base(os.Getenv(crashDirEnv)) != "0" { // one gateway creates it
			return nil, nil
		}
		d := new(broadcast.Definition)
		text := `{"message": {"title": "Hello"}, "audience": {"platform": "fcm"}, "rate": {"per_minute": 30000}, "recall": {"message": {"title": "Sorry"}, "rate": {"per_minute": 30000}}}`
		if err := json.Unmarshal([]byte(text), d, strictjson.Options()); err != nil {
			return nil, err
		}
		return n.Create(ctx, app, "caller", d)
	}
	v := all[len(all)-1]
	do := func(c broadcast.Command) (*broadcast.View, error) {
		return n.Do(ctx, app, v.ID, broadcast.CommandRequest{Command: c, Caller: "caller"})
	}
	switch v.State {
	case broadcast.Draft:
		if v.Upload == nil || !v.Upload.Complete {
			return nil, uploadPart(ctx, n, v, random)
		}
		return do(broadcast.Validate)
	case broadcast.Ready:
		return do(broadcast.Start)
	case broadcast.Running, broadcast.Recalling:
		recalls := !v.InRecall && seed%3 != 0 && v.Counts.Ended() > crashLines/3
		switch {
		case recalls && (last || random.IntN(20) == 0):
			return do(broadcast.Recall)
		case v.State == broadcast.Running && v.Counts.Pending == 0 && v.Counts.Queued < crashLines/10: // those that are unavailable
			return do(broadcast.Cancel)
		case v.State == broadcast.Recalling && v.RecallCounts.Pending == 0 && v.Counts.Queued+v.RecallCounts.Queued == 0:
		case random.IntN(20) == 0:
			return do(broadcast.Pause)
		}
	case broadcast.Paused:
		if random.IntN(3) == 0 {
			return do(broadcast.Resume)
		}
	case broadcast.Completed, broadcast.Cancelled:
		if seed%3 != 0 {
			return do(broadcast.Recall)
		}
	}
	return v, nil
}

// uploadPart uploads a part of the audience, whose end is within a line.
func uploadPart(ctx context.Context, n *node, v *broadcast.View, random *rand.Rand) error {
	text, u := lines(crashLines), broadcast.UploadRequest{Replace: v.Upload == nil, Format: audience.NDJSON}
	offset, _, err := n.Uploaded(ctx, app, v.ID)
	if err != nil {
		return err
	}
	if u.Replace { // although another caller may have started meanwhile
		offset = 0
	}
	u.Offset = offset
	end := min(int(offset)+1+random.IntN(len(text)/8), len(text))
	u.Partial = end < len(text)
	_, _, err = n.Upload(ctx, app, v.ID, u, strings.NewReader(text[offset:end]))
	return err
}

func writeResults(ctx context.Context, n *node, id, dir string) error {
	v, err := n.Get(ctx, app, id)
	if err != nil {
		return err
	}
	r := crashResult{View: v}
	if r.Devices, err = n.Devices(ctx, app, []string{id}); err != nil {
		return err
	}
	err = n.Results(ctx, app, id, func(l *broadcast.LineResult) error {
		r.Results = append(r.Results, *l)
		return nil
	})
	audited, err2 := n.audit(ctx, id, nil)
	if err2 == nil && (!audited.Clean() || !reflect.DeepEqual(audited.Counts, v.Counts) || !reflect.DeepEqual(audited.RecallCounts, v.RecallCounts)) {
		err2 = fmt.Errorf("the audit is not clean: %+v, %+v, want %+v", audited, audited.Counts, v.Counts)
	}
	text, err3 := json.Marshal(r)
	return errors.Join(err, err2, err3, os.WriteFile(filepath.Join(dir, "results"), text, 0o600))
}

func TestKilledGatewaysSendBroadcastOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	seeds, _ := strconv.Atoi(cmp.Or(os.Getenv(crashSeedsEnv), "3"))
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) { runCrashes(t, uint64(seed), "", 1) })
	}
}

func TestKilledClusterSendsBroadcastOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	seeds, _ := strconv.Atoi(cmp.Or(os.Getenv(crashSeedsEnv), "1"))
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			runCrashes(t, uint64(seed)+1, jetstreamtest.StartCluster(t).Account(t).URL, 3)
		})
	}
}

// runCrashes kills children at random times, and compares the results with what arrived.
func runCrashes(t *testing.T, seed uint64, url string, gateways int) {
	shared, random := t.TempDir(), rand.New(rand.NewPCG(seed, 17))
	children := make([]*child, gateways)
	for i := range children {
		children[i] = startChild(t, shared, url, seed, i)
	}
	for range crashKills * gateways {
		time.Sleep(100*time.Millisecond + time.Duration(random.Int64N(int64(800*time.Millisecond)))/time.Duration(gateways)) // random on purpose
		i := random.IntN(gateways)
		children[i].kill(t)
		children[i] = startChild(t, shared, url, seed, i)
	}
	for _, c := range children {
		c.kill(t)
	}
	final := childCommand(shared, url, seed, 0, crashLastEnv+"=1")
	if out, err := final.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	checkCrashes(t, shared)
}

// checkCrashes compares the results of the last child with what arrived.
func checkCrashes(t *testing.T, dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "results"))
	if err != nil {
		t.Fatal(err)
	}
	var got crashResult
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	arrived, counted, recalled := arrivals(t, dir), map[string]uint64{}, map[string]uint64{}
	if len(got.Results) != crashLines || got.View.Validation.Valid != crashLines {
		t.Fatalf("%d results, %+v", len(got.Results), got.View.Validation)
	}
	if n := got.Devices.Unique; n != got.View.Validation.Devices || n < crashLines*97/100 || n > crashLines*103/100 {
		t.Errorf("%d unique devices, want %d", n, crashLines)
	}
	for i, r := range got.Results {
		token := fmt.Sprintf("%06d", i+1)
		hello, sorry := arrived["Hello:"+token], arrived["Sorry:"+token]
		counted[r.Status]++
		if r.RecallStatus != "" {
			recalled[r.RecallStatus]++
		}
		mayHave := r.Status == "accepted" || r.Status == "unknown"
		repeats := answerOf(token).Verdict == push.Unavailable
		switch {
		case hello > 1 && !repeats, sorry > 1:
			t.Errorf("line %d arrived %d times, the recall %d times: %+v", i+1, hello, sorry, r)
		case hello == 0 && r.Status != "pending" && r.Status != "cancelled" && r.Status != "unknown":
			t.Errorf("line %d has not arrived: %+v", i+1, r)
		case hello > 0 && (r.Status == "pending" || r.Status == "cancelled") && !repeats:
			t.Errorf("line %d has arrived: %+v", i+1, r)
		case got.View.InRecall && mayHave && r.RecallStatus == "", !mayHave && (r.RecallStatus != "" || sorry > 0):
			t.Errorf("line %d, %d recalls: %+v", i+1, sorry, r)
		case r.RecallStatus == "accepted" && sorry != 1:
			t.Errorf("line %d, %d recalls: %+v", i+1, sorry, r)
		}
	}
	want := map[string]uint64{"pending": got.View.Counts.Pending, "queued": got.View.Counts.Queued}
	for _, c := range got.View.Counts.By {
		want[string(c.Status)] += c.Count
	}
	maps.DeleteFunc(want, func(_ string, n uint64) bool { return n == 0 })
	if !maps.Equal(counted, want) {
		t.Errorf("results %v, counts %v", counted, want)
	}
	t.Logf("%s: %v, recalls %v", got.View.State, counted, recalled)
}

// arrivals returns how often each message arrived.
func arrivals(t *testing.T, dir string) map[string]int {
	text, err := os.ReadFile(filepath.Join(dir, crashFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for line := range strings.FieldsSeq(string(text)) {
		counts[line]++
	}
	return counts
}

// child is a running child process.
type child struct {
	*exec.Cmd
	out bytes.Buffer
}

func startChild(t *testing.T, shared, url string, seed uint64, number int) *child {
	t.Helper()
	c := &child{Cmd: childCommand(shared, url, seed, number)}
	c.Stdout, c.Stderr = &c.out, &c.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

func (c *child) kill(t *testing.T) {
	t.Helper()
	_ = c.Process.Kill()
	if err := c.Wait(); c.ProcessState.Exited() { // bounded by the kill
		t.Fatalf("the child exited before it was killed: %v: %s", err, c.out.String())
	}
}

func childCommand(shared, url string, seed uint64, number int, env ...string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), crashDirEnv+"="+filepath.Join(shared, strconv.Itoa(number)), crashURLEnv+"="+url, crashSeedEnv+"="+strconv.FormatUint(seed, 10))
	c.Env = append(c.Env, env...)
	return c
}
