// SPDX-License-Identifier: Apache-2.0

package webhooks_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

// pipeReceiver is a receiver behind pipes, which keep to the bubble's time.
type pipeReceiver struct {
	*receiver
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
	failing  atomic.Bool
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
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newPipeReceiver runs a receiver with another one's certificate, until the test ends.
func newPipeReceiver(t *testing.T, certified *receiver) *pipeReceiver {
	p := &pipeReceiver{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.receiver = &receiver{received: make(chan message, 100_000), answer: func(w http.ResponseWriter, _ int) {
		if p.attempts.Add(1); p.failing.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}}
	p.Server = certified.Server
	server := &http.Server{Handler: p.receiver, TLSConfig: certified.TLS.Clone(), ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(p, "", "") })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return p
}

// pipedConfig is the configuration of a webhook to p, without haste.
func (a *fakeStore) pipedConfig(p *pipeReceiver, name string) webhooks.Config {
	return a.config(p.receiver, func(cfg *webhooks.Config) {
		cfg.Name, cfg.URL, cfg.Dial, cfg.Linger, cfg.Backoff, cfg.MaxBackoff = name, "https://example.com", p.dial, 0, 0, 0
	})
}

// inBubble runs a test with a receiver that can be sick for days.
func inBubble(t *testing.T, certified *receiver, test func(t *testing.T, a *fakeStore, p *pipeReceiver, cfg webhooks.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, a := newPipeReceiver(t, certified), newArchive()
		a.startNow("shop/billing")
		test(t, a, p, a.pipedConfig(p, "billing"))
	})
}

func TestStalledReceiverDoesNotBlockOthers(t *testing.T) {
	certified := newReceiver(t, nil)
	synctest.Test(t, func(t *testing.T) {
		a, sick, well, free := newArchive(), newPipeReceiver(t, certified), newPipeReceiver(t, certified), make(chan struct{})
		sick.answer = func(http.ResponseWriter, int) { sick.attempts.Add(1); <-free }
		a.startNow("shop/sick")
		a.startNow("shop/well")
		start(t, a.pipedConfig(sick, "sick"))
		start(t, a.pipedConfig(well, "well"))
		before := time.Now()
		for range 4 {
			a.addEvent(push.Event{})
		}
		if got := well.waitFor(t, "4"); !slices.Equal(got, cursorRange(1, 4)) || time.Since(before) > time.Second {
			t.Errorf("%v after %s", got, time.Since(before))
		}
		time.Sleep(time.Minute)
		if n := sick.attempts.Load(); n < 3 {
			t.Errorf("%d attempts", n)
		}
		close(free)
		if got := sick.waitFor(t, "4"); !slices.Contains(got, "1") {
			t.Errorf("lost: %v", got)
		}
	})
}

func TestEventsOlderThanADayAreDeadLettered(t *testing.T) {
	certified := newReceiver(t, nil)
	inBubble(t, certified, func(t *testing.T, a *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.failing.Store(true)
		w, stop := start(t, cfg)
		for range 30 { // an event an hour
			a.addEvent(push.Event{})
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		s := w.Status()
		// The seventh is a day old by now, but for the wait before the next attempt.
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
		var told []string
		for _, m := range p.messages()[int(p.attempts.Load())-len(s.DeadLettered)-1:] {
			told = append(told, m.events...)
		}
		if s.Failures != 0 || s.Cursor != "30" || s.DeliveredUpTo.IsZero() || s.Delivered != uint64(30-s.DeadLettered[0].Events) || !slices.Contains(told, "30") {
			t.Errorf("%+v, told %v", s, told)
		}
		if saved, _ := a.Load(t.Context(), "shop/billing"); len(saved.DeadLettered) != 1 || saved.After != "30" {
			t.Errorf("%+v", saved)
		}
	})
}

func TestBackoffForFailingReceiver(t *testing.T) {
	certified := newReceiver(t, nil)
	inBubble(t, certified, func(t *testing.T, a *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.failing.Store(true)
		_, stop := start(t, cfg)
		a.addEvent(push.Event{})
		time.Sleep(23 * time.Hour)
		stop()
		// Waits are drawn below 5 min: 276 of them fill a day at least, twice that is the mean.
		if n := p.attempts.Load(); n < 276 || n > 1000 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestRetryAfterIsHonored(t *testing.T) {
	certified := newReceiver(t, nil)
	inBubble(t, certified, func(t *testing.T, a *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		p.answer = func(w http.ResponseWriter, _ int) {
			p.attempts.Add(1)
			w.Header().Set("Retry-After", "1800")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, stop := start(t, cfg)
		a.addEvent(push.Event{})
		time.Sleep(10*time.Hour + time.Minute)
		stop()
		if n := p.attempts.Load(); n < 18 || n > 21 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestOldBacklogIsDelivered(t *testing.T) {
	certified := newReceiver(t, nil)
	inBubble(t, certified, func(t *testing.T, a *fakeStore, p *pipeReceiver, cfg webhooks.Config) {
		for range 5 {
			a.addEvent(push.Event{})
		}
		time.Sleep(48 * time.Hour) // the gateway was away
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
