// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = webhooks.Secret("0123456789abcdef01234567")

// fakeStore is a feed and the positions of its readers.
type fakeStore struct {
	mu          sync.Mutex
	events      []push.Event
	oldest      int
	news        chan struct{}
	checkpoints map[string]webhooks.Checkpoint
	saveErr     error // of saving
}

func newArchive() *fakeStore {
	return &fakeStore{news: make(chan struct{}), checkpoints: map[string]webhooks.Checkpoint{}}
}

// addEvent adds an event, which ended a notification unless it says otherwise.
func (a *fakeStore) addEvent(e push.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e.Status == "" {
		e.Status = push.StatusAccepted
	}
	e.App, e.At, e.Cursor = "shop", time.Now().Truncate(time.Millisecond), strconv.Itoa(len(a.events)+1)
	e.ID = e.Cursor
	a.events = append(a.events, e)
	close(a.news)
	a.news = make(chan struct{})
}

func (a *fakeStore) Feed(ctx context.Context, _, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		at, err := a.offset(after)
		if err != nil {
			yield(push.Event{}, err)
			return
		}
		for ctx.Err() == nil {
			a.mu.Lock()
			events, news := slices.Clone(a.events[at:]), a.news
			a.mu.Unlock()
			for _, e := range events {
				at++
				if !want(&e) {
					e = push.Event{Cursor: e.Cursor}
				}
				if !yield(e, nil) {
					return
				}
			}
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
	}
}

func (a *fakeStore) offset(after string) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch after {
	case "":
		return len(a.events), nil
	case "oldest":
		return a.oldest, nil
	}
	at, err := strconv.Atoi(after)
	if err == nil && at < a.oldest {
		err = push.ErrCursorExpired
	}
	return at, err
}

func (a *fakeStore) Load(_ context.Context, name string) (webhooks.Checkpoint, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.checkpoints[name], nil
}

func (a *fakeStore) Save(_ context.Context, name string, p webhooks.Checkpoint) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.saveErr != nil {
		return a.saveErr
	}
	a.checkpoints[name] = p
	return nil
}

// startNow makes the archive know the webhook, so that it tells all that comes from now on, whenever it runs.
func (a *fakeStore) startNow(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checkpoints[name] = webhooks.Checkpoint{Since: time.Now().Add(-time.Minute)}
}

// message is what a receiver got.
type message struct {
	id     string
	header http.Header
	events []string // cursors
	body   string
}

// receiver is a webhook's other end, on a real socket with TLS.
type receiver struct {
	*httptest.Server
	answer func(w http.ResponseWriter, n int) // the nth message, from 1; nil takes all

	mu       sync.Mutex
	posted   []message
	received chan message
}

func newReceiver(t testing.TB, answer func(w http.ResponseWriter, n int)) *receiver {
	r := &receiver{answer: answer, received: make(chan message, 1000)}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ErrorLog = log.New(io.Discard, "", 0) // of callers who hang up
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	var in struct {
		Type string
		Data struct {
			App    string
			Events []struct{ Cursor string }
		}
	}
	err := json.Unmarshal(body, &in)
	m := message{id: q.Header.Get("Webhook-Id"), header: q.Header, body: string(body)}
	for _, e := range in.Data.Events {
		m.events = append(m.events, e.Cursor)
	}
	if err != nil || in.Type != "notification.events" || in.Data.App != "shop" || webhooks.Verify(q.Header, body, secret) != nil {
		m.body = fmt.Sprint("broken or not signed: ", err, m.body)
	}
	r.mu.Lock()
	r.posted = append(r.posted, m)
	n := len(r.posted)
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(w, n)
	}
	r.received <- m
}

func (r *receiver) messages() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.posted)
}

// waitFor returns once the receiver was posted the events up to a cursor, with the cursors in the order in which they came.
func (r *receiver) waitFor(t testing.TB, until string) (cursors []string) {
	t.Helper()
	for m := range r.received {
		cursors = append(cursors, m.events...)
		if slices.Contains(m.events, until) {
			return cursors
		}
	}
	return nil
}

// roots trust httptest's certificate.
func (r *receiver) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	return pool
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// config is the configuration of a webhook to the receiver, on this machine and in haste.
func (a *fakeStore) config(r *receiver, change ...func(*webhooks.Config)) webhooks.Config {
	cfg := webhooks.Config{
		App: "shop", Name: "billing", URL: r.URL + "/hooks/PATH-SECRET", Secrets: []webhooks.Secret{secret}, AllowedNetworks: loopback, RootCAs: r.roots(),
		Linger: time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, Feed: a, Checkpoints: a,
	}
	for _, c := range change {
		c(&cfg)
	}
	return cfg
}

// start runs a webhook until stop is called, or the test ends.
func start(t testing.TB, cfg webhooks.Config) (w *webhooks.Webhook, stop func()) {
	t.Helper()
	w, err := webhooks.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return w, stop
}
