// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

// pipeReceiver is a receiver behind pipes, which work with synctest.
type pipeReceiver struct {
	*receiver
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
	failing  atomic.Bool // answers 503
	gone     atomic.Bool // answers 410
	attempts atomic.Int32
}

func (p *pipeReceiver) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipeReceiver) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipeReceiver) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipeReceiver) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newPipeReceiver runs a receiver with another receiver's certificate until the test ends.
func newPipeReceiver(t *testing.T, certificate *receiver) *pipeReceiver {
	p := &pipeReceiver{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.receiver = &receiver{received: make(chan message, 100_000), answer: func(w http.ResponseWriter, _ int) {
		if p.attempts.Add(1); p.failing.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if p.gone.Load() {
			w.WriteHeader(http.StatusGone)
		}
	}}
	p.Server = certificate.Server
	server := &http.Server{Handler: p.receiver, TLSConfig: certificate.TLS.Clone(), ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(p, "", "") })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return p
}

// pipedConfig returns the configuration of a webhook for p, with the default delays.
func (store *fakeStore) pipedConfig(p *pipeReceiver, name string) webhooks.Config {
	return store.config(p.receiver, func(cfg *webhooks.Config) {
		cfg.Name, cfg.URL, cfg.Dial, cfg.Linger, cfg.Backoff, cfg.MaxBackoff = name, "https://example.com", p.dial, 0, 0, 0
	})
}

// inBubble runs a test in a synctest bubble with a receiver that can fail for days.
func inBubble(t *testing.T, certificate *receiver, test func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, store := newPipeReceiver(t, certificate), newFakeStore()
		store.startNow("shop/billing")
		test(t, store, p, store.pipedConfig(p, "billing"))
	})
}

func TestStalledReceiverDoesNotBlockOthers(t *testing.T) {
	certificate := newReceiver(t, nil)
	synctest.Test(t, func(t *testing.T) {
		store, stalled, healthy, release := newFakeStore(), newPipeReceiver(t, certificate), newPipeReceiver(t, certificate), make(chan struct{})
		stalled.answer = func(http.ResponseWriter, int) { stalled.attempts.Add(1); <-release }
		store.startNow("shop/sick")
		store.startNow("shop/well")
		start(t, store.pipedConfig(stalled, "sick"))
		start(t, store.pipedConfig(healthy, "well"))
		began := time.Now()
		for range 4 {
			store.addEvent(push.Event{})
		}
		if got := healthy.waitFor(t, "4"); !slices.Equal(got, cursorRange(1, 4)) || time.Since(began) > time.Second {
			t.Errorf("%v delivered after %s", got, time.Since(began))
		}
		time.Sleep(time.Minute)
		if n := stalled.attempts.Load(); n < 3 {
			t.Errorf("%d attempts", n)
		}
		close(release)
		if got := stalled.waitFor(t, "4"); !slices.Contains(got, "1") {
			t.Errorf("events are missing: %v", got)
		}
	})
}

func TestEventsOlderThanADayAreDeadLettered(t *testing.T) {
	certificate := newReceiver(t, nil)
	inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.failing.Store(true)
		w, stop := start(t, cfg)
		for range 30 { // one event per hour
			store.addEvent(push.Event{})
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		s := w.Status()
		// The seventh event is a day old too, but is only dead-lettered after the wait before the
		// next attempt.
		if len(s.DeadLettered) != 1 || s.DeadLettered[0].Events < 5 || s.DeadLettered[0].Events > 7 || s.DeadLettered[0].Reason != "HTTP status 503" || s.Cursor != s.DeadLettered[0].Until {
			t.Errorf("%+v", s)
		}
		if s.NextAttempt.IsZero() || s.Failures == 0 {
			t.Errorf("%+v", s)
		}
		p.failing.Store(false)
		time.Sleep(time.Hour)
		stop()
		s = w.Status()
		var delivered []string
		for _, m := range p.messages()[int(p.attempts.Load())-len(s.DeadLettered)-1:] {
			delivered = append(delivered, m.events...)
		}
		if s.Failures != 0 || s.Cursor != "30" || s.DeliveredUpTo.IsZero() || s.Delivered != uint64(30-s.DeadLettered[0].Events) || !slices.Contains(delivered, "30") {
			t.Errorf("%+v, delivered %v", s, delivered)
		}
		if saved, _ := store.Load(t.Context(), "shop/billing"); len(saved.DeadLettered) != 1 || saved.After != "30" {
			t.Errorf("%+v", saved)
		}
	})
}

func TestBackoffForFailingReceiver(t *testing.T) {
	certificate := newReceiver(t, nil)
	inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.failing.Store(true)
		_, stop := start(t, cfg)
		store.addEvent(push.Event{})
		time.Sleep(23 * time.Hour)
		stop()
		// Each wait is at most 5 minutes, so that there are at least 276 in 23 hours. The expected
		// number is twice as high.
		if n := p.attempts.Load(); n < 276 || n > 1000 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestRetryAfterIsHonored(t *testing.T) {
	certificate := newReceiver(t, nil)
	inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.answer = func(w http.ResponseWriter, _ int) {
			p.attempts.Add(1)
			w.Header().Set("Retry-After", "1800")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, stop := start(t, cfg)
		store.addEvent(push.Event{})
		time.Sleep(10*time.Hour + time.Minute)
		stop()
		if n := p.attempts.Load(); n < 18 || n > 21 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestOldBacklogIsDelivered(t *testing.T) {
	certificate := newReceiver(t, nil)
	inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		for range 5 {
			store.addEvent(push.Event{})
		}
		time.Sleep(48 * time.Hour) // the gateway is down
		w, stop := start(t, cfg)
		if got := p.waitFor(t, "5"); !slices.Equal(got, cursorRange(1, 5)) {
			t.Errorf("%v", got)
		}
		synctest.Wait()
		stop()
		if s := w.Status(); len(s.DeadLettered) != 0 || s.Cursor != fmt.Sprint(5) {
			t.Errorf("%+v", s)
		}
	})
}

// TestGoneDisablesWebhook has a receiver that answers 410. The webhook stays disabled, also after a
// restart, until its configuration changes; then it continues with the refused events.
func TestGoneDisablesWebhook(t *testing.T) {
	certificate := newReceiver(t, nil)
	rotated := webhooks.Secret("another secret of 24 bytes")
	for name, change := range map[string]func(*webhooks.Config){
		"URL":      func(cfg *webhooks.Config) { cfg.URL += "/new" },
		"secret":   func(cfg *webhooks.Config) { cfg.Secrets = []webhooks.Secret{rotated, secret} },
		"events":   func(cfg *webhooks.Config) { cfg.Events = []push.Status{push.StatusAccepted} },
		"networks": func(cfg *webhooks.Config) { cfg.AllowedNetworks = nil },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
				p.gone.Store(true)
				for range 2 {
					w, stop := start(t, cfg)
					store.addEvent(push.Event{})
					time.Sleep(48 * time.Hour)
					s := w.Status()
					if s.DisabledSince.IsZero() || !strings.HasPrefix(s.Reason, "HTTP status 410") || s.Cursor != "" || len(s.DeadLettered) != 0 || !s.NextAttempt.IsZero() {
						t.Errorf("%+v", s)
					}
					stop()
				}
				if n := p.attempts.Load(); n != 1 {
					t.Errorf("%d attempts, want 1", n)
				}
				testwait.For(t, p.received, "the refused message")
				p.gone.Store(false)
				change(&cfg)
				w, stop := start(t, cfg)
				store.addEvent(push.Event{})
				if got := p.waitFor(t, "3"); !slices.Equal(got, cursorRange(1, 3)) {
					t.Errorf("%v", got)
				}
				synctest.Wait()
				stop()
				if s := w.Status(); !s.DisabledSince.IsZero() || s.Reason != "" || s.Delivered != 3 {
					t.Errorf("%+v", s)
				}
				if saved, _ := store.Load(t.Context(), "shop/billing"); saved.Disabled != nil || saved.After != "3" {
					t.Errorf("%+v", saved)
				}
			})
		})
	}
}

// TestDisabledWebhookIsSaved has a store that fails when the receiver answers 410.
func TestDisabledWebhookIsSaved(t *testing.T) {
	certificate := newReceiver(t, nil)
	inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.gone.Store(true)
		store.setSaveErr(errors.New("full"))
		_, stop := start(t, cfg)
		store.addEvent(push.Event{})
		time.Sleep(time.Hour)
		store.setSaveErr(nil)
		time.Sleep(time.Hour)
		stop()
		saved, _ := store.Load(t.Context(), "shop/billing")
		if saved.Disabled == nil || strings.Contains(fmt.Sprint(*saved.Disabled), "PATH-SECRET") {
			t.Errorf("%+v", saved)
		}
	})
}

// TestReceiverMayTakeFifteenSeconds has a receiver that is as slow as Standard Webhooks allow.
func TestReceiverMayTakeFifteenSeconds(t *testing.T) {
	certificate := newReceiver(t, nil)
	inBubble(t, certificate, func(t *testing.T, store *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.answer = func(http.ResponseWriter, int) {
			p.attempts.Add(1)
			time.Sleep(19 * time.Second)
		}
		w, stop := start(t, cfg)
		store.addEvent(push.Event{})
		time.Sleep(time.Minute)
		stop()
		if s := w.Status(); p.attempts.Load() != 1 || s.Delivered != 1 || s.Failures != 0 {
			t.Errorf("%d attempts, %+v", p.attempts.Load(), s)
		}
	})
}
