// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
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

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = webhooks.Secret("0123456789abcdef01234567")

// fakeStore is a feed and a checkpoint store in memory.
type fakeStore struct {
	mu          sync.Mutex
	events      []push.Event
	oldest      int
	news        chan struct{}
	checkpoints map[string]webhooks.Checkpoint
	saveErr     error // returned by Save
}

func newFakeStore() *fakeStore {
	return &fakeStore{news: make(chan struct{}), checkpoints: map[string]webhooks.Checkpoint{}}
}

// addEvent adds an event. The default status is a final one.
func (store *fakeStore) addEvent(e push.Event) {
	store.mu.Lock()
	defer store.mu.Unlock()
	if e.Status == "" {
		e.Status = push.StatusAccepted
	}
	e.App, e.At, e.Cursor = "shop", time.Now().Truncate(time.Millisecond), strconv.Itoa(len(store.events)+1)
	e.ID = e.Cursor
	store.events = append(store.events, e)
	close(store.news)
	store.news = make(chan struct{})
}

func (store *fakeStore) Feed(ctx context.Context, _, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		offset, err := store.offset(after)
		if err != nil {
			yield(push.Event{}, err)
			return
		}
		for ctx.Err() == nil {
			store.mu.Lock()
			events, news := slices.Clone(store.events[offset:]), store.news
			store.mu.Unlock()
			for _, e := range events {
				offset++
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

func (store *fakeStore) offset(after string) (int, error) {
	store.mu.Lock()
	defer store.mu.Unlock()
	switch after {
	case "":
		return len(store.events), nil
	case "oldest":
		return store.oldest, nil
	}
	at, err := strconv.Atoi(after)
	if err == nil && at < store.oldest {
		err = push.ErrCursorExpired
	}
	return at, err
}

func (store *fakeStore) Load(_ context.Context, name string) (webhooks.Checkpoint, error) {
	store.mu.Lock()
	defer store.mu.Unlock()
	return store.checkpoints[name], nil
}

func (store *fakeStore) Save(_ context.Context, name string, p webhooks.Checkpoint) error {
	store.mu.Lock()
	defer store.mu.Unlock()
	if store.saveErr != nil {
		return store.saveErr
	}
	store.checkpoints[name] = p
	return nil
}

func (store *fakeStore) setSaveErr(err error) {
	store.mu.Lock()
	defer store.mu.Unlock()
	store.saveErr = err
}

// startNow creates the webhook's checkpoint, so that it delivers all events from now on, even those
// before it runs.
func (store *fakeStore) startNow(name string) {
	store.mu.Lock()
	defer store.mu.Unlock()
	store.checkpoints[name] = webhooks.Checkpoint{Since: time.Now().Add(-time.Minute)}
}

// message is a message as received.
type message struct {
	id     string
	header http.Header
	events []string // cursors
	body   string
}

// receiver is the receiver of a webhook, on a real socket with TLS.
type receiver struct {
	*httptest.Server
	answer func(w http.ResponseWriter, n int) // for the nth message, from 1; nil accepts all

	mu       sync.Mutex
	posted   []message
	received chan message
}

func newReceiver(t testing.TB, answer func(w http.ResponseWriter, n int)) *receiver {
	r := &receiver{answer: answer, received: make(chan message, 1000)}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ErrorLog = log.New(io.Discard, "", 0) // discards the errors of clients that disconnect
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var in struct {
		Type string
		Data struct {
			App    string
			Events []struct{ Cursor string }
		}
	}
	err := json.Unmarshal(body, &in)
	m := message{id: req.Header.Get("Webhook-Id"), header: req.Header, body: string(body)}
	for _, e := range in.Data.Events {
		m.events = append(m.events, e.Cursor)
	}
	if err != nil || in.Type != "notification.events" || in.Data.App != "shop" || verify(req.Header, body, secret) != nil {
		m.body = fmt.Sprint("broken: ", err, m.body)
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

// waitFor waits until the receiver has got the event with this cursor. It returns the cursors of
// all events in the order of arrival.
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

// verify verifies a message as its receiver does.
func verify(h http.Header, body []byte, secret webhooks.Secret) error {
	v, err := webhook.NewVerifier("whsec_" + base64.StdEncoding.EncodeToString(secret))
	if err != nil {
		return err
	}
	return v.Verify(h, body)
}

// roots returns a pool that trusts httptest's certificate.
func (r *receiver) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	return pool
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// config returns the configuration of a webhook for the receiver, with short delays.
func (store *fakeStore) config(r *receiver, change ...func(*webhooks.Config)) webhooks.Config {
	cfg := webhooks.Config{
		App: "shop", Name: "billing", URL: r.URL + "/hooks/PATH-SECRET", Secrets: []webhooks.Secret{secret}, AllowedNetworks: loopback, RootCAs: r.roots(),
		Linger: time.Millisecond, Backoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond, Feed: store, Checkpoints: store,
	}
	for _, c := range change {
		c(&cfg)
	}
	return cfg
}

// start runs a webhook until stop is called or the test ends.
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
		testwait.Call(t, running.Wait, "the end of Run")
	}
	t.Cleanup(stop)
	return w, stop
}
