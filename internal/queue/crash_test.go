// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
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

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// The crash test starts this test binary as a child process: a gateway without HTTP that accepts
// and sends as fast as it can. It kills the child at random times and restarts it on the same
// directory. The child appends to files: the Idempotency-Keys before it uses them, the keys and IDs
// that it accepted, and those that its sender received. Each child first repeats the calls that got no
// response, and some that did. The last child accepts nothing else and finishes the remaining tasks.

const (
	crashDirEnv   = "SLUICE_CRASH_DIR"   // set in the child: its directory
	crashURLEnv   = "SLUICE_CRASH_URL"   // set in the child if the tests run on a cluster
	crashLastEnv  = "SLUICE_CRASH_LAST"  // set in the last child
	crashSeedsEnv = "SLUICE_CRASH_SEEDS" // the number of seeds; set by make crash

	crashInFlight   = 32
	crashPartitions = 4 // two apps, each with immediate and scheduled tasks
	crashKills      = 3
)

// keyHistory adapts history.History to idempotency.History.
type keyHistory struct{ *history.History }

func (h keyHistory) LastUse(ctx context.Context, keyHash []byte) (*idempotency.Use, error) {
	use, err := h.History.LastUse(ctx, keyHash)
	return (*idempotency.Use)(use), err
}

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
	engine   *jetstream.Engine
	log      *jetstream.Log
	queue    *queue.Queue
	history  *history.History
	claims   *idempotency.Log
	keys     *os.File
	accepted *os.File
	arrived  *os.File

	mu      sync.Mutex
	refused map[string]bool
}

// keyOf returns the Idempotency-Key of n, or its ID if it has none.
func keyOf(n *push.Notification) string {
	if len(n.KeyHash) == 0 {
		return n.ID
	}
	return string(n.KeyHash)
}

// newCall returns a notification with a key. The key decides how it is treated.
func newCall(key string) *push.Notification {
	n := newNotification("shop")
	n.KeyHash, n.BodyHash = []byte(key), []byte("body")
	switch traitOf(key) {
	case 1:
		n.SendAt = n.AcceptedAt.Add(rand.N(1500 * time.Millisecond))
	case 2:
		n.App = "news"
	case 3, 4, 5:
		n.OnUnknown = push.RepeatAlways
	case 6:
		n.ID, n.KeyHash, n.BodyHash = key, nil, nil
	}
	return n
}

// traitOf derives a number from 0 to 9 from a key. It decides how a notification is treated.
func traitOf(key string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return h.Sum32() % 10
}

func (c *crashChild) Check(*push.Notification) error { return nil }

// Send records the notification as arrived. It refuses one in ten at the first attempt.
func (c *crashChild) Send(_ context.Context, n *push.Call) *push.Receipt {
	r := &n.Receipt
	*r = push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if n.BeforeAttempt(1) != nil {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
		return r
	}
	if c.refusesFirst(keyOf(n.Notification)) {
		r.Outcome = push.Outcome{Verdict: push.Unavailable}
	} else {
		writeLines(c.arrived, keyOf(n.Notification)+":"+n.ID)
	}
	time.Sleep(rand.N(2 * time.Millisecond)) // a kill in this time leaves the attempt in doubt
	r.Attempts = []push.Attempt{{Outcome: r.Outcome}}
	return r
}

func (c *crashChild) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	sendRun(ctx, calls, ended, c.Send)
}

func (c *crashChild) refusesFirst(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if traitOf(key) != 0 || c.refused[key] {
		return false
	}
	c.refused[key] = true
	return true
}

// writeLines appends lines with one write, so that a kill leaves no partial line.
func writeLines(file *os.File, lines ...string) {
	if len(lines) == 0 {
		return
	}
	if _, err := file.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		panic(err)
	}
}

// runChild is the main function of the child process.
func runChild(dir string) error {
	ctx := context.Background()
	c := &crashChild{refused: map[string]bool{}}
	var err error
	for name, file := range map[string]**os.File{"keys": &c.keys, "accepted": &c.accepted, "arrived": &c.arrived} {
		if *file, err = openAppend(dir, name); err != nil {
			return err
		}
	}
	e, err := c.open(ctx, dir)
	for err != nil && os.Getenv(crashURLEnv) != "" { // the cluster may be electing a leader
		time.Sleep(100 * time.Millisecond)
		e, err = c.open(ctx, dir)
	}
	if err != nil {
		return err
	}
	c.engine = e
	go func() { _ = e.Run(ctx) }()
	go func() { _ = c.history.Run(ctx) }()
	go func() { _ = c.claims.Run(ctx) }()
	go func() { _ = c.queue.Run(ctx) }()
	go func() { _ = c.log.Run(ctx) }()
	last := os.Getenv(crashLastEnv) != ""
	if !last {
		for range 8 {
			go c.accept(ctx)
		}
	}
	c.repeat(ctx, dir, last)
	if !last {
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
	engineConfig.Keys = jetstreamtest.Keys()
	if e, err = jetstream.Open(ctx, engineConfig); err != nil {
		return nil, err
	}
	cfg := queue.Config{Engine: e, Sender: c, InFlight: crashInFlight, SettleTime: time.Second}
	if c.log, err = history.OpenLog(ctx, e, filepath.Join(dir, "index")); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	cfg.Log, cfg.Checkpoint = c.log, filepath.Join(dir, "checkpoint")
	c.history, err = history.Open(ctx, history.Config{Engine: e, Log: c.log, Dir: filepath.Join(dir, "index")})
	if err != nil {
		return nil, errors.Join(err, c.log.Close(), e.Close())
	}
	cfg.Journal = historyJournal{c.history}
	c.queue, err = queue.Open(ctx, cfg)
	if err == nil {
		c.claims, err = idempotency.NewLog(ctx, idempotency.LogConfig{Engine: e, History: keyHistory{c.history}, Queue: c.queue, ClaimTTL: 4 * time.Second})
	}
	if err != nil {
		return nil, errors.Join(err, c.history.Close(), c.log.Close(), e.Close())
	}
	return e, nil
}

func openAppend(dir, name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// accept accepts groups of notifications in a loop.
func (c *crashChild) accept(ctx context.Context) {
	for {
		var keys []string
		for range 1 + rand.IntN(8)*rand.IntN(8) {
			keys = append(keys, uuid.Must(uuid.NewV7()).String())
		}
		writeLines(c.keys, keys...)
		c.call(ctx, keys)
	}
}

// call accepts notifications with these keys, as the API does, and returns the keys that are not
// accepted.
func (c *crashChild) call(ctx context.Context, keys []string) (failed []string) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	slices.Sort(keys) // as in the API, so that two calls cannot wait for each other
	var ns []*push.Notification
	var accepted []string
	for _, key := range keys {
		n := newCall(key)
		if len(n.KeyHash) == 0 {
			ns = append(ns, n)
			continue
		}
		release, earlier, err := c.claims.Claim(ctx, n)
		switch {
		case err != nil:
			failed = append(failed, key)
		case release == nil:
			accepted = append(accepted, key+":"+earlier.ID)
		default:
			defer release(nil)
			ns = append(ns, n)
		}
	}
	for i, err := range c.queue.Accept(ctx, ns) {
		if err == nil {
			accepted = append(accepted, keyOf(ns[i])+":"+ns[i].ID)
		} else {
			failed = append(failed, keyOf(ns[i]))
		}
	}
	writeLines(c.accepted, accepted...)
	return failed
}

// repeat repeats the calls that got no response, and some that did. The last child repeats until every
// call has a response.
func (c *crashChild) repeat(ctx context.Context, dir string, last bool) {
	accepted, keys := map[string]bool{}, []string{}
	for line := range readCounts(dir, "accepted") {
		key, _, _ := strings.Cut(line, ":")
		accepted[key] = true
	}
	for key := range readCounts(dir, "keys") {
		if traitOf(key) != 6 && (!accepted[key] || rand.IntN(50) == 0) {
			keys = append(keys, key)
		}
	}
	for len(keys) > 0 {
		var failed []string
		for chunk := range slices.Chunk(keys, 100) {
			failed = append(failed, c.call(ctx, chunk)...)
		}
		if !last {
			return
		}
		keys = failed
	}
}

// finish waits until all accepted notifications have ended, and records those that ended in doubt.
func (c *crashChild) finish(ctx context.Context, dir string) error {
	var ids []string
	for line := range readCounts(dir, "accepted") {
		_, id, _ := strings.Cut(line, ":")
		ids = append(ids, id)
	}
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
			return c.audit(ctx)
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d notifications have not ended: %s", len(open), strings.Join(open[:min(len(open), 10)], "\n"))
		}
	}
}

// audit fails if the audit is not clean.
func (c *crashChild) audit(ctx context.Context) error {
	report, err := audit.Run(ctx, c.engine, audit.Config{Events: history.Stream, Queues: queue.Streams()})
	for began := time.Now(); err != nil && os.Getenv(crashURLEnv) != "" && time.Since(began) < time.Minute; { // an election
		report, err = audit.Run(ctx, c.engine, audit.Config{Events: history.Stream, Queues: queue.Streams()})
	}
	if err == nil && !report.Clean() {
		var events []push.Event
		if len(report.Findings) > 0 {
			events, _ = c.history.Events(ctx, report.Findings[0].ID)
		}
		text, _ := json.Marshal(events)
		err = fmt.Errorf("audit: %+v: %s", report, text)
	}
	return err
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

// runCrashes kills children at random times and compares what they accepted with what arrived. With odd
// seeds the log is encrypted.
func runCrashes(t *testing.T, seed uint64) {
	if seed%2 == 1 {
		t.Setenv(jetstreamtest.EncryptionEnv, "1")
	}
	dir, random := t.TempDir(), rand.New(rand.NewPCG(seed, 17))
	url := jetstreamtest.Config(t, dir).URL
	for range crashKills {
		runAndKill(t, dir, url, 100*time.Millisecond+time.Duration(random.Int64N(int64(1200*time.Millisecond))))
	}
	child := childCommand(dir, url, crashLastEnv+"=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	keys, accepted, doubt := readCounts(dir, "keys"), map[string]string{}, readCounts(dir, "doubt")
	for line := range readCounts(dir, "accepted") {
		key, id, _ := strings.Cut(line, ":")
		if other := accepted[key]; other != "" && other != id {
			t.Errorf("a key was accepted for two notifications, %s and %s", other, id)
		}
		accepted[key] = id
	}
	arrived := map[string]int{} // by key
	for line, times := range readCounts(dir, "arrived") {
		key, _, _ := strings.Cut(line, ":")
		arrived[key] += times
	}
	lost, twice := 0, 0
	for key := range keys {
		switch id, known := accepted[key]; {
		case !known && traitOf(key) != 6: // 6 has no key, so its call cannot be repeated
			t.Errorf("the repeated call with the key %s was not accepted", key)
		case known && arrived[key] == 0 && doubt[id] == 0:
			lost++
		case arrived[key] > 1:
			twice += arrived[key] - 1
			if k := traitOf(key); k != 3 && k != 4 && k != 5 {
				t.Errorf("a notification that must not be repeated arrived %d times", arrived[key])
			}
		}
	}
	window := crashKills * crashInFlight * crashPartitions
	if lost > 0 || twice > window || len(doubt) > window {
		t.Errorf("%d accepted: %d lost, %d arrived twice, %d in doubt", len(accepted), lost, twice, len(doubt))
	}
	t.Logf("%d keys, %d accepted, %d arrived, %d arrived twice, %d in doubt", len(keys), len(accepted), len(arrived), twice, len(doubt))
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
	if err := child.Wait(); child.ProcessState.Exited() { // bounded by the kill
		t.Fatalf("the child exited before it was killed: %v: %s", err, out.String())
	}
}

func childCommand(dir, url string, env ...string) *exec.Cmd {
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), crashDirEnv+"="+dir, crashURLEnv+"="+url), env...)
	return child
}
