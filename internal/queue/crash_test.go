// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// The crash test starts this test binary as a child process: a gateway without HTTP that accepts
// and sends as fast as it can. It kills the child at random times and restarts it on the same
// directory. The child appends the IDs that it accepted and that its sender received to files. The
// last child accepts nothing and finishes the remaining tasks.

const (
	crashDirEnv   = "SLUICE_CRASH_DIR"   // set in the child: its directory
	crashURLEnv   = "SLUICE_CRASH_URL"   // set in the child if the tests run on a cluster
	crashLastEnv  = "SLUICE_CRASH_LAST"  // set in the last child
	crashSeedsEnv = "SLUICE_CRASH_SEEDS" // the number of seeds; set by make crash

	crashInFlight   = 32
	crashPartitions = 4 // two apps, each with immediate and scheduled tasks
	crashKills      = 3
)

// historyJournal adapts history.History to queue.Journal.
type historyJournal struct{ *history.History }

func (j historyJournal) States(ctx context.Context, ids []string) (map[string]queue.State, error) {
	states, err := j.History.States(ctx, ids)
	out := make(map[string]queue.State, len(states))
	for id, s := range states {
		out[id] = queue.State{Status: s.Status, Attempt: s.Attempt, Offset: s.Offset}
	}
	return out, err
}

// crashChild is the state of the child process, and its sender.
type crashChild struct {
	queue    *queue.Queue
	history  *history.History
	accepted *os.File
	arrived  *os.File

	mu      sync.Mutex
	refused map[string]bool
}

// traitOf derives a number from 0 to 9 from an ID. It decides how a notification is treated.
func traitOf(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return h.Sum32() % 10
}

func (c *crashChild) Check(*push.Notification) error { return nil }

// Send records the notification as arrived. It refuses one in ten at the first attempt.
func (c *crashChild) Send(_ context.Context, n *push.Notification) push.Receipt {
	if n.BeforeAttempt(1) != nil {
		return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
	}
	r := push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if c.refusesFirst(n.ID) {
		r.Outcome = push.Outcome{Verdict: push.Unavailable}
	} else {
		writeLines(c.arrived, n.ID)
	}
	time.Sleep(rand.N(2 * time.Millisecond)) // a kill in this time leaves the attempt in doubt
	r.Attempts = []push.Attempt{{Outcome: r.Outcome}}
	return r
}

func (c *crashChild) refusesFirst(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if traitOf(id) != 0 || c.refused[id] {
		return false
	}
	c.refused[id] = true
	return true
}

// writeLines appends lines with one write, so that a kill leaves no partial line.
func writeLines(file *os.File, lines ...string) {
	if _, err := file.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		panic(err)
	}
}

// runChild is the main function of the child process.
func runChild(dir string) error {
	ctx := context.Background()
	c := &crashChild{refused: map[string]bool{}}
	var err error
	if c.accepted, err = openAppend(dir, "accepted"); err != nil {
		return err
	}
	if c.arrived, err = openAppend(dir, "arrived"); err != nil {
		return err
	}
	e, err := c.open(ctx, dir)
	for err != nil && os.Getenv(crashURLEnv) != "" { // the cluster may be electing a leader
		time.Sleep(100 * time.Millisecond)
		e, err = c.open(ctx, dir)
	}
	if err != nil {
		return err
	}
	go func() { _ = e.Run(ctx) }()
	go func() { _ = c.history.Run(ctx) }()
	go func() { _ = c.queue.Run(ctx) }()
	if os.Getenv(crashLastEnv) == "" {
		for range 8 {
			go c.accept(ctx)
		}
		select {} // until the process is killed
	}
	return c.finish(ctx, dir)
}

// open opens the engine, the history and the queue.
func (c *crashChild) open(ctx context.Context, dir string) (e *jetstream.Engine, err error) {
	engineConfig := jetstream.Config{Dir: filepath.Join(dir, "engine"), Reserve: -1}
	if url := os.Getenv(crashURLEnv); url != "" {
		engineConfig = jetstream.Config{URL: url, Replicas: 3}
	}
	if e, err = jetstream.Open(ctx, engineConfig); err != nil {
		return nil, err
	}
	c.history, err = history.Open(ctx, history.Config{Engine: e, Dir: filepath.Join(dir, "index")})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	c.queue, err = queue.Open(ctx, queue.Config{Engine: e, Journal: historyJournal{c.history}, Sender: c, InFlight: crashInFlight})
	if err != nil {
		return nil, errors.Join(err, c.history.Close(), e.Close())
	}
	return e, nil
}

func openAppend(dir, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// accept accepts groups of notifications in a loop.
func (c *crashChild) accept(ctx context.Context) {
	for {
		ns := newNotifications("shop", 1+rand.IntN(8)*rand.IntN(8))
		for _, n := range ns {
			switch traitOf(n.ID) {
			case 1:
				n.SendAt = n.AcceptedAt.Add(rand.N(1500 * time.Millisecond))
			case 2:
				n.App = "news"
			case 3, 4, 5:
				n.OnUnknown = push.RepeatAlways
			}
		}
		var accepted []string
		for i, err := range c.queue.Accept(ctx, ns) {
			if err == nil {
				accepted = append(accepted, ns[i].ID)
			}
		}
		writeLines(c.accepted, accepted...)
	}
}

// finish waits until all accepted notifications have ended, and records those that ended in doubt.
func (c *crashChild) finish(ctx context.Context, dir string) error {
	ids := slices.Collect(maps.Keys(readCounts(dir, "accepted")))
	if err := c.history.WaitCaughtUp(ctx); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		var open, unknown []string
		for batch := range slices.Chunk(ids, 500) {
			states, err := c.history.States(ctx, batch)
			if err != nil {
				return err
			}
			for _, id := range batch {
				switch s := states[id]; {
				case s.Status == push.StatusUnknown:
					unknown = append(unknown, id)
				case !s.Ended():
					open = append(open, fmt.Sprintf("%s %+v", id, s))
				}
			}
		}
		if len(open) == 0 {
			doubt, err := openAppend(dir, "doubt")
			if err != nil {
				return err
			}
			writeLines(doubt, unknown...)
			return nil
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d notifications have not ended: %s", len(open), strings.Join(open[:min(len(open), 10)], "\n"))
		}
	}
}

// readCounts returns how often each line occurs in a file.
func readCounts(dir, name string) map[string]int {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic(err)
	}
	count := map[string]int{}
	for line := range strings.FieldsSeq(string(text)) {
		count[line]++
	}
	return count
}

func TestKilledGatewayLosesNoTask(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	seeds, _ := strconv.Atoi(cmp.Or(os.Getenv(crashSeedsEnv), "1"))
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) { runCrashes(t, uint64(seed)) })
	}
}

// runCrashes kills children at random times and compares what they accepted with what arrived.
func runCrashes(t *testing.T, seed uint64) {
	dir, random := t.TempDir(), rand.New(rand.NewPCG(seed, 17))
	url := jetstreamtest.Config(t, dir).URL
	for range crashKills {
		runAndKill(t, dir, url, 100*time.Millisecond+time.Duration(random.Int64N(int64(1200*time.Millisecond))))
	}
	child := childCommand(dir, url, crashLastEnv+"=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	accepted, arrived, doubt := readCounts(dir, "accepted"), readCounts(dir, "arrived"), readCounts(dir, "doubt")
	lost, twice := 0, 0
	for id := range accepted {
		switch {
		case arrived[id] == 0 && doubt[id] == 0:
			lost++
		case arrived[id] > 1:
			twice += arrived[id] - 1
			if k := traitOf(id); k != 3 && k != 4 && k != 5 {
				t.Errorf("a notification that must not be repeated arrived %d times", arrived[id])
			}
		}
	}
	if window := crashKills * crashInFlight * crashPartitions; lost > 0 || twice > window || len(doubt) > window {
		t.Errorf("%d accepted: %d lost, %d arrived twice, %d in doubt", len(accepted), lost, twice, len(doubt))
	}
	t.Logf("%d accepted, %d arrived, %d arrived twice, %d in doubt", len(accepted), len(arrived), twice, len(doubt))
}

// runAndKill runs a child and kills it after a time. On a cluster the time begins when the child
// has accepted something.
func runAndKill(t *testing.T, dir, url string, after time.Duration) {
	t.Helper()
	child, before := childCommand(dir, url), len(readCounts(dir, "accepted"))
	var out bytes.Buffer
	child.Stdout, child.Stderr = &out, &out
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if url != "" {
		testwait.Until(t, func() bool { return len(readCounts(dir, "accepted")) > before }, "the child accepts")
	}
	time.Sleep(after) // the time of the kill is random on purpose
	_ = child.Process.Kill()
	if err := child.Wait(); child.ProcessState.Exited() {
		t.Fatalf("the child exited before it was killed: %v: %s", err, out.String())
	}
}

func childCommand(dir, url string, env ...string) *exec.Cmd {
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), crashDirEnv+"="+dir, crashURLEnv+"="+url), env...)
	return child
}
