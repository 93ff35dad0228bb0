// SPDX-License-Identifier: Apache-2.0

package broadcast_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) {
	tests := jetstreamtest.Main(m)
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := runChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(tests)
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

// node is a gateway without HTTP and providers.
type node struct {
	*broadcast.Manager
	engine  *jetstream.Engine
	log     *jetstream.Log
	history *history.History
	queue   *queue.Queue
}

// nodeConfig says what a node needs.
type nodeConfig struct {
	dir    string
	url    string // of a cluster, or empty
	sender queue.Sender
	logger *slog.Logger
	keys   *keyring.Ring // nil for those of the tests
	grace  time.Duration // of attempts in progress when the node stops; 0 for the default of the queue
	// change changes the configuration of the broadcasts, unless it is nil.
	change func(*broadcast.Config)
}

func openNode(ctx context.Context, cfg nodeConfig) (n *node, err error) {
	if cfg.keys == nil {
		cfg.keys = jetstreamtest.Keys()
	}
	engineConfig := jetstream.Config{Dir: filepath.Join(cfg.dir, "engine"), Reserve: -1, Keys: cfg.keys, Logger: cfg.logger}
	if cfg.url != "" {
		engineConfig = jetstream.Config{URL: cfg.url, Replicas: 3, Keys: cfg.keys, Logger: cfg.logger}
	}
	n = new(node)
	if n.engine, err = jetstream.Open(ctx, engineConfig); err != nil {
		return nil, err
	}
	index := filepath.Join(cfg.dir, "index")
	if n.log, err = history.OpenLog(ctx, n.engine, index); err != nil {
		return nil, errors.Join(err, n.engine.Close())
	}
	if n.history, err = history.Open(ctx, history.Config{Engine: n.engine, Log: n.log, Dir: index}); err != nil {
		return nil, errors.Join(err, n.log.Close(), n.engine.Close())
	}
	n.queue, err = queue.Open(ctx, queue.Config{
		Engine: n.engine, Log: n.log, Sender: cfg.sender, Journal: historyJournal{n.history}, Checkpoint: filepath.Join(cfg.dir, "checkpoint"),
		SettleTime: time.Second, Grace: cfg.grace, Logger: cfg.logger, LostAfter: 500 * time.Millisecond, InFlight: 64,
	})
	if err == nil {
		b := broadcast.Config{
			Engine: n.engine, Queue: n.queue, Check: cfg.sender.Check, Dir: cfg.dir, Logger: cfg.logger,
			Record: func(ctx context.Context, events ...push.Event) error {
				_, err := n.history.Append(ctx, events...)
				return err
			},
			Lease: func(ctx context.Context, _ string, work func(context.Context) error) error { return work(ctx) }, // several at once are allowed
		}
		if cfg.change != nil {
			cfg.change(&b)
		}
		n.Manager, err = broadcast.Open(ctx, b)
	}
	if err != nil {
		return nil, errors.Join(err, n.history.Close(), n.log.Close(), n.engine.Close())
	}
	return n, nil
}

// run runs the node until ctx ends, and closes it.
func (n *node) run(ctx context.Context) error {
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	defer stopLog()
	var engine, log, users errgroup.Group
	engine.Go(func() error { return n.engine.Run(engineCtx) })
	engine.Go(func() error { return n.history.Run(engineCtx) })
	log.Go(func() error { return n.log.Run(logCtx) })
	users.Go(func() error { return n.queue.Run(ctx) })
	users.Go(func() error { return n.Manager.Run(ctx) })
	err := users.Wait() // bounded by stop of testNode
	stopLog()
	err = errors.Join(err, log.Wait()) // bounded by stop of testNode
	stopEngine()
	return errors.Join(err, engine.Wait(), n.history.Close(), n.log.Close(), n.engine.Close()) // bounded by stop of testNode
}

// testNode is a node of a test.
type testNode struct {
	*node
	t      testing.TB
	sender *fakeSender
	stop   func() // and waits until the node is closed
}

const app = "shop"

func newTestNode(t testing.TB, cfg nodeConfig) *testNode {
	t.Helper()
	if cfg.dir == "" {
		cfg.dir = t.TempDir()
	}
	sender := newFakeSender()
	if s, ok := cfg.sender.(*fakeSender); ok {
		sender = s
	}
	cfg.sender = sender
	n, err := openNode(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	tn := &testNode{node: n, t: t, sender: sender}
	tn.stop = sync.OnceFunc(func() {
		cancel()
		if err := testwait.For(t, ended, "the node has ended"); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(tn.stop)
	return tn
}

// fakeSender accepts every notification immediately unless configured otherwise.
type fakeSender struct {
	mu     sync.Mutex
	sent   map[string]int // attempts by token and title
	order  []string       // tokens and titles
	answer func(*push.Notification) push.Outcome
	hold   chan struct{} // attempts wait until it is closed; nil for no wait
	held   uint64        // attempts that wait
}

func newFakeSender() *fakeSender { return &fakeSender{sent: map[string]int{}} }

func (s *fakeSender) Check(n *push.Notification) error {
	if strings.HasPrefix(n.Token, "bad") {
		return &push.FieldError{Field: "token", Reason: "InvalidTarget", Allowed: "good"}
	}
	return nil
}

func (s *fakeSender) Send(ctx context.Context, c *push.Call) *push.Receipt {
	r := &c.Receipt
	*r = push.Receipt{ID: c.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if c.BeforeAttempt(1) != nil {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
		return r
	}
	s.attempt(ctx, c)
	return r
}

// attempt makes an attempt that is recorded.
func (s *fakeSender) attempt(ctx context.Context, c *push.Call) {
	s.mu.Lock()
	name := c.Title + " " + c.Token + c.Topic
	s.sent[name]++
	s.order = append(s.order, name)
	answer, hold := s.answer, s.hold
	if hold != nil {
		s.held++
	}
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		s.mu.Lock()
		s.held--
		s.mu.Unlock()
	}
	c.Receipt.Outcome = push.Outcome{Verdict: push.Accepted}
	if answer != nil {
		c.Receipt.Outcome = answer(c.Notification)
	}
	c.Receipt.ID, c.Receipt.Attempts = c.ID, []push.Attempt{{Outcome: c.Receipt.Outcome}}
}

func (s *fakeSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	errs := calls[0].BeforeRun(calls)
	var all sync.WaitGroup
	for i, c := range calls {
		all.Go(func() {
			c.Receipt = push.Receipt{ID: c.ID, Outcome: push.Outcome{Verdict: push.Abandoned}}
			if errs == nil || errs[i] == nil {
				s.attempt(ctx, c)
			}
			ended([]*push.Call{c})
		})
	}
	all.Wait()
}

// attempts returns how many attempts there were in all.
func (s *fakeSender) attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.order)
}

// counted returns the attempts by title and token.
func (s *fakeSender) counted() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for name, n := range s.sent {
		counts[name] = n
	}
	return counts
}

// definition parses a definition.
func definition(t testing.TB, text string) *broadcast.Definition {
	t.Helper()
	d := new(broadcast.Definition)
	if err := json.Unmarshal([]byte(text), d, strictjson.Options()); err != nil {
		t.Fatal(strictjson.Explain(err, []byte(text)))
	}
	return d
}

// lines returns an audience with the tokens 1 to n.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"token\":\"%06d\"}\n", i+1)
	}
	return b.String()
}

// create creates a broadcast with an audience.
func (n *testNode) create(text, audienceText string) (id string) {
	n.t.Helper()
	v, err := n.Create(n.t.Context(), app, "creator", definition(n.t, text))
	if err != nil {
		n.t.Fatal(err)
	}
	if audienceText != "" {
		n.upload(v.ID, audienceText)
	}
	return v.ID
}

func (n *testNode) upload(id, text string) {
	n.t.Helper()
	_, offset, err := n.Upload(n.t.Context(), app, id, broadcast.UploadRequest{Format: audience.NDJSON, Replace: true}, strings.NewReader(text))
	if err != nil || offset != int64(len(text)) {
		n.t.Fatal(offset, err)
	}
}

// do executes a command that succeeds.
func (n *testNode) do(id string, c broadcast.Command) *broadcast.View {
	n.t.Helper()
	v, err := n.Do(n.t.Context(), app, id, broadcast.CommandRequest{Command: c, Caller: "starter"})
	if err != nil {
		n.t.Fatalf("%s: %v", c, err)
	}
	return v
}

func (n *testNode) get(id string) *broadcast.View {
	n.t.Helper()
	v, err := n.Get(n.t.Context(), app, id)
	if err != nil {
		n.t.Fatal(err)
	}
	return v
}

// waitState waits until the broadcast is in a state, which is complete if it is final.
func (n *testNode) waitState(id string, s broadcast.State) (v *broadcast.View) {
	n.t.Helper()
	testwait.Until(n.t, func() bool {
		v = n.get(id)
		return v.State == s && (!s.IsFinal() || !v.FinishedAt.IsZero())
	}, "the broadcast is "+string(s))
	return v
}

// start validates and starts a broadcast.
func (n *testNode) start(id string) {
	n.t.Helper()
	n.do(id, broadcast.Validate)
	n.waitState(id, broadcast.Ready)
	n.do(id, broadcast.Start)
}

// results returns the exported results.
func (n *testNode) results(id string) (all []broadcast.LineResult) {
	n.t.Helper()
	var text bytes.Buffer
	if err := n.WriteResults(n.t.Context(), app, id, audience.NDJSON, &text); err != nil {
		n.t.Fatal(err)
	}
	for line := range bytes.Lines(text.Bytes()) {
		var r broadcast.LineResult
		if err := json.Unmarshal(line, &r); err != nil {
			n.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}
