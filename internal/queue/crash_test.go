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
	"github.com/sluice-push/sluice/push"
)

// The crash test is a gateway without HTTP, this same binary once more, that accepts and sends as fast as it can until it
// is killed; again and again on one folder. It tells what was accepted, and its provider what arrived, in files that
// outlive it. A last life accepts nothing and works off what is left.

const (
	crashDirEnv   = "SLUICE_CRASH_FOLDER" // set in the child: where it works
	crashURLEnv   = "SLUICE_CRASH_URL"    // set in the child whose engine is a cluster
	crashLastEnv  = "SLUICE_CRASH_LAST"   // set in its last life
	crashSeedsEnv = "SLUICE_CRASH_SEEDS"  // how many seeds to try; make crash sets it

	crashInFlight   = 32
	crashPartitions = 4 // two apps, each with what is sent now and what is sent at a time
	crashKills      = 3
)

// historyJournal is the real history, in the queue's words.
type historyJournal struct{ *history.History }

func (r historyJournal) States(ctx context.Context, ids []string) (map[string]queue.State, error) {
	states, err := r.History.States(ctx, ids)
	out := make(map[string]queue.State, len(states))
	for id, s := range states {
		out[id] = queue.State{Status: s.Status, Attempt: s.Attempt, Offset: s.Offset}
	}
	return out, err
}

// crashChild is one life of the child.
type crashChild struct {
	queue    *queue.Queue
	history  *history.History
	accepted *os.File
	arrived  *os.File

	mu      sync.Mutex
	refused map[string]bool
}

// traitOf draws what is special about a notification from its ID.
func traitOf(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return h.Sum32() % 10
}

func (l *crashChild) Check(*push.Notification) error { return nil }

// Send plays a provider. One in ten is told to come again at first.
func (l *crashChild) Send(_ context.Context, n *push.Notification) push.Receipt {
	if n.BeforeAttempt(1) != nil {
		return push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
	}
	r := push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if l.refusesFirst(n.ID) {
		r.Outcome = push.Outcome{Verdict: push.Unavailable}
	} else {
		writeLines(l.arrived, n.ID)
	}
	time.Sleep(rand.N(2 * time.Millisecond)) // it takes its time to answer
	r.Attempts = []push.Attempt{{Outcome: r.Outcome}}
	return r
}

func (l *crashChild) refusesFirst(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if traitOf(id) != 0 || l.refused[id] {
		return false
	}
	l.refused[id] = true
	return true
}

// writeLines writes whole lines: a kill never leaves half of them.
func writeLines(file *os.File, lines ...string) {
	if _, err := file.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		panic(err)
	}
}

// runChild is the child's main.
func runChild(folder string) error {
	ctx := context.Background()
	l := &crashChild{refused: map[string]bool{}}
	var err error
	if l.accepted, err = openAppend(folder, "accepted"); err != nil {
		return err
	}
	if l.arrived, err = openAppend(folder, "arrived"); err != nil {
		return err
	}
	e, err := l.open(ctx, folder)
	for err != nil && os.Getenv(crashURLEnv) != "" { // it elects
		time.Sleep(100 * time.Millisecond)
		e, err = l.open(ctx, folder)
	}
	if err != nil {
		return err
	}
	go func() { _ = e.Run(ctx) }()
	go func() { _ = l.history.Run(ctx) }()
	go func() { _ = l.queue.Run(ctx) }()
	if os.Getenv(crashLastEnv) == "" {
		for range 8 {
			go l.accept(ctx)
		}
		select {} // until we are killed
	}
	return l.finish(ctx, folder)
}

// open opens the engine and what stands on it.
func (l *crashChild) open(ctx context.Context, folder string) (e *jetstream.Engine, err error) {
	where := jetstream.Config{Dir: filepath.Join(folder, "engine"), Reserve: -1}
	if url := os.Getenv(crashURLEnv); url != "" {
		where = jetstream.Config{URL: url, Replicas: 3}
	}
	if e, err = jetstream.Open(ctx, where); err != nil {
		return nil, err
	}
	l.history, err = history.Open(ctx, history.Config{Engine: e, Dir: filepath.Join(folder, "index")})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	l.queue, err = queue.Open(ctx, queue.Config{Engine: e, Journal: historyJournal{l.history}, Sender: l, InFlight: crashInFlight})
	if err != nil {
		return nil, errors.Join(err, l.history.Close(), e.Close())
	}
	return e, nil
}

func openAppend(folder, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// accept accepts one, or some, again and again.
func (l *crashChild) accept(ctx context.Context) {
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
		var safe []string
		for i, err := range l.queue.Accept(ctx, ns) {
			if err == nil {
				safe = append(safe, ns[i].ID)
			}
		}
		writeLines(l.accepted, safe...)
	}
}

// finish waits until all that was accepted has ended, and tells what ended in doubt.
func (l *crashChild) finish(ctx context.Context, folder string) error {
	ids := slices.Collect(maps.Keys(readCounts(folder, "accepted")))
	if err := l.history.WaitCaughtUp(ctx); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		var open, unknown []string
		for some := range slices.Chunk(ids, 500) {
			states, err := l.history.States(ctx, some)
			if err != nil {
				return err
			}
			for _, id := range some {
				switch s := states[id]; {
				case s.Status == push.StatusUnknown:
					unknown = append(unknown, id)
				case !s.Ended():
					open = append(open, fmt.Sprintf("%s %+v", id, s))
				}
			}
		}
		if len(open) == 0 {
			doubt, err := openAppend(folder, "doubt")
			if err != nil {
				return err
			}
			writeLines(doubt, unknown...)
			return nil
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d have not ended: %s", len(open), strings.Join(open[:min(len(open), 10)], "\n"))
		}
	}
}

// readCounts counts the lines of a file.
func readCounts(folder, name string) map[string]int {
	text, err := os.ReadFile(filepath.Join(folder, name))
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

// runCrashes kills a few lives at random moments, and counts.
func runCrashes(t *testing.T, seed uint64) {
	folder, chance := t.TempDir(), rand.New(rand.NewPCG(seed, 17))
	url := jetstreamtest.Config(t, folder).URL
	for range crashKills {
		runAndKill(t, folder, url, 100*time.Millisecond+time.Duration(chance.Int64N(int64(1200*time.Millisecond))))
	}
	child := childCommand(folder, url, crashLastEnv+"=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	accepted, arrived, doubt := readCounts(folder, "accepted"), readCounts(folder, "arrived"), readCounts(folder, "doubt")
	lost, twice := 0, 0
	for id := range accepted {
		switch {
		case arrived[id] == 0 && doubt[id] == 0:
			lost++
		case arrived[id] > 1:
			twice += arrived[id] - 1
			if k := traitOf(id); k != 3 && k != 4 && k != 5 {
				t.Errorf("one that must not be repeated arrived %d times", arrived[id])
			}
		}
	}
	if window := crashKills * crashInFlight * crashPartitions; lost > 0 || twice > window || len(doubt) > window {
		t.Errorf("of %d accepted %d are lost, %d arrived twice and %d are in doubt", len(accepted), lost, twice, len(doubt))
	}
	t.Logf("%d accepted, %d arrived, %d twice, %d in doubt", len(accepted), len(arrived), twice, len(doubt))
}

// runAndKill runs one life and kills it after it has lived so long; where it may have to wait for a cluster, since it accepted.
func runAndKill(t *testing.T, folder, url string, after time.Duration) {
	t.Helper()
	child, before := childCommand(folder, url), len(readCounts(folder, "accepted"))
	var out bytes.Buffer
	child.Stdout, child.Stderr = &out, &out
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for url != "" && len(readCounts(folder, "accepted")) == before {
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(after) // any moment will do
	_ = child.Process.Kill()
	if err := child.Wait(); child.ProcessState.Exited() {
		t.Fatalf("it ended by itself: %v: %s", err, out.String())
	}
}

func childCommand(folder, url string, env ...string) *exec.Cmd {
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), crashDirEnv+"="+folder, crashURLEnv+"="+url), env...)
	return child
}
