// SPDX-License-Identifier: Apache-2.0

package webhook_test

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

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/webhook"
)

// piped is a receiver behind pipes, which keep to the bubble's time.
type piped struct {
	*receiver
	conns chan net.Conn
	shut  chan struct{}
	once  sync.Once
	sick  atomic.Bool
	tries atomic.Int32
}

func (p *piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *piped) Close() error {
	p.once.Do(func() { close(p.shut) })
	return nil
}

func (p *piped) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *piped) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipe runs a receiver with another one's certificate, until the test ends.
func pipe(t *testing.T, certified *receiver) *piped {
	p := &piped{conns: make(chan net.Conn), shut: make(chan struct{})}
	p.receiver = &receiver{got: make(chan message, 100_000), answer: func(w http.ResponseWriter, _ int) {
		if p.tries.Add(1); p.sick.Load() {
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

// toPiped is the configuration of a webhook to p, without haste.
func (a *archive) toPiped(p *piped, name string) webhook.Config {
	return a.to(p.receiver, func(cfg *webhook.Config) {
		cfg.Name, cfg.URL, cfg.Dial, cfg.Linger, cfg.Backoff, cfg.MaxBackoff = name, "https://example.com", p.dial, 0, 0, 0
	})
}

// bubble runs a test with a receiver that can be sick for days.
func bubble(t *testing.T, certified *receiver, test func(t *testing.T, a *archive, p *piped, cfg webhook.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, a := pipe(t, certified), newArchive()
		a.began("shop/billing")
		test(t, a, p, a.toPiped(p, "billing"))
	})
}

func TestAReceiverThatStallsHoldsUpNobodyElse(t *testing.T) {
	certified := listen(t, nil)
	synctest.Test(t, func(t *testing.T) {
		a, sick, well, free := newArchive(), pipe(t, certified), pipe(t, certified), make(chan struct{})
		sick.answer = func(http.ResponseWriter, int) { sick.tries.Add(1); <-free }
		a.began("shop/sick")
		a.began("shop/well")
		run(t, a.toPiped(sick, "sick"))
		run(t, a.toPiped(well, "well"))
		before := time.Now()
		for range 4 {
			a.tell(push.Event{})
		}
		if got := well.hear(t, "4"); !slices.Equal(got, numbers(1, 4)) || time.Since(before) > time.Second {
			t.Errorf("%v after %s", got, time.Since(before))
		}
		time.Sleep(time.Minute)
		if n := sick.tries.Load(); n < 3 {
			t.Errorf("%d attempts", n)
		}
		close(free)
		if got := sick.hear(t, "4"); !slices.Contains(got, "1") {
			t.Errorf("lost: %v", got)
		}
	})
}

func TestWhatIsNotTakenForADayIsParkedAndWhatIsYoungerIsNot(t *testing.T) {
	certified := listen(t, nil)
	bubble(t, certified, func(t *testing.T, a *archive, p *piped, cfg webhook.Config) {
		p.sick.Store(true)
		w, stop := run(t, cfg)
		for range 30 { // an event an hour
			a.tell(push.Event{})
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		s := w.Status()
		// The seventh is a day old by now, but for the wait before the next attempt.
		if len(s.Parked) != 1 || s.Parked[0].Events < 5 || s.Parked[0].Events > 7 || s.Parked[0].Reason != "HTTP status 503" || s.Position != s.Parked[0].Until {
			t.Errorf("%+v", s)
		}
		if s.NextTry.IsZero() || s.Failures == 0 {
			t.Errorf("%+v", s)
		}
		p.sick.Store(false)
		time.Sleep(time.Hour)
		stop()
		s = w.Status()
		var told []string
		for _, m := range p.messages()[int(p.tries.Load())-len(s.Parked)-1:] {
			told = append(told, m.events...)
		}
		if s.Failures != 0 || s.Position != "30" || s.ToldUpTo.IsZero() || s.Told != uint64(30-s.Parked[0].Events) || !slices.Contains(told, "30") {
			t.Errorf("%+v, told %v", s, told)
		}
		if saved, _ := a.Load(t.Context(), "shop/billing"); len(saved.Parked) != 1 || saved.After != "30" {
			t.Errorf("%+v", saved)
		}
	})
}

func TestAReceiverThatIsSickIsLeftAloneMoreAndMore(t *testing.T) {
	certified := listen(t, nil)
	bubble(t, certified, func(t *testing.T, a *archive, p *piped, cfg webhook.Config) {
		p.sick.Store(true)
		_, stop := run(t, cfg)
		a.tell(push.Event{})
		time.Sleep(23 * time.Hour)
		stop()
		// Waits are drawn below 5 min: 276 of them fill a day at least, twice that is the mean.
		if n := p.tries.Load(); n < 276 || n > 1000 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestAReceiverSaysHowLongToWait(t *testing.T) {
	certified := listen(t, nil)
	bubble(t, certified, func(t *testing.T, a *archive, p *piped, cfg webhook.Config) {
		p.answer = func(w http.ResponseWriter, _ int) {
			p.tries.Add(1)
			w.Header().Set("Retry-After", "1800")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, stop := run(t, cfg)
		a.tell(push.Event{})
		time.Sleep(10*time.Hour + time.Minute)
		stop()
		if n := p.tries.Load(); n < 18 || n > 21 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestABacklogOfTwoDaysThatNobodyRefusedIsTold(t *testing.T) {
	certified := listen(t, nil)
	bubble(t, certified, func(t *testing.T, a *archive, p *piped, cfg webhook.Config) {
		for range 5 {
			a.tell(push.Event{})
		}
		time.Sleep(48 * time.Hour) // the gateway was away
		w, stop := run(t, cfg)
		if got := p.hear(t, "5"); !slices.Equal(got, numbers(1, 5)) {
			t.Errorf("%v", got)
		}
		synctest.Wait()
		stop()
		if s := w.Status(); len(s.Parked) != 0 || s.Position != fmt.Sprint(5) {
			t.Errorf("%+v", s)
		}
	})
}
