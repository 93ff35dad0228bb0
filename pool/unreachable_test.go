// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

var (
	errUntrusted   = &wire.Error{Reason: wire.TLSServerUntrusted, Processed: wire.Never, Err: errors.New("x509: certificate has expired")}
	errNoListener  = &wire.Error{Reason: wire.ConnectRefused, Processed: wire.Never, EndpointAtFault: true, Err: errors.New("connection refused")}
	errConnTimeout = &wire.Error{Reason: wire.ConnectTimeout, Processed: wire.Never, EndpointAtFault: true, Err: errors.New("i/o timeout")}
)

// failDials makes the dials to these servers fail, or with a nil error succeed again.
func (tp *testPool) failDials(err error, servers ...int) {
	for _, i := range servers {
		tp.setServer(i, func(s *fakeServer) { s.dialErr = err })
	}
}

// wantPickFails checks that Pick fails within limit, with this reason and this text.
func (tp *testPool) wantPickFails(limit time.Duration, reason, text string) {
	tp.t.Helper()
	ctx, cancel := context.WithTimeout(tp.t.Context(), time.Hour)
	defer cancel()
	start := time.Now()
	_, err := tp.Pick(ctx, nil)
	pickErr, ok := errors.AsType[*pool.Error](err)
	if !ok || pickErr.Reason != reason || !strings.Contains(pickErr.Err.Error(), text) || time.Since(start) > limit {
		tp.t.Errorf("after %s Pick = %v; want reason %s and %q within %s", time.Since(start), err, reason, text, limit)
	}
	if o := push.NoResponse(err); o.Verdict != push.Unsent || o.Reason != reason {
		tp.t.Errorf("outcome %+v; want unsent", o)
	}
}

func TestPickFailsImmediatelyWhileNoEndpointCanBeReached(t *testing.T) {
	for _, cause := range []*wire.Error{errUntrusted, errNoListener, errConnTimeout} {
		t.Run(string(cause.Reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := newTestPool(t, 4, pool.Config{})
				tp.failDials(cause, 1, 2, 3, 4)
				tp.run()
				reason, text := string(cause.Reason), cause.Err.Error()
				tp.wantPickFails(300*time.Millisecond, reason, text) // waits for the first dials
				for range 100 {
					advance(time.Second) // also while endpoints are dialed again
					tp.wantPickFails(0, reason, text)
				}
				if err := tp.Ready(); err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("Ready() = %v", err)
				}
				if s := tp.endpointStatus(1); !strings.Contains(s.DialError, text) || !strings.Contains(tp.Status().Reason, text) {
					t.Errorf("Status does not contain the cause: %+v", s)
				}
				tp.failDials(nil, 2)
				advance(5 * time.Minute)
				tp.pick().Done(accepted)
				if s := tp.endpointStatus(2); s.DialError != "" {
					t.Errorf("Status still contains the cause: %+v", s)
				}
			})
		})
	}
}

func TestWaitForReadyWaitsAndNamesTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 2, pool.Config{WaitForReady: true})
		tp.failDials(errNoListener, 1, 2)
		tp.run()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := tp.Pick(ctx, nil)
		if e, ok := errors.AsType[*pool.Error](err); !ok || e.Reason != string(wire.ConnectRefused) || !strings.Contains(e.Detail, "connection refused") ||
			!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Pick = %v", err)
		}
		time.AfterFunc(time.Minute, func() { tp.failDials(nil, 1, 2) })
		lease, err := tp.Pick(t.Context(), nil)
		if err != nil {
			t.Fatalf("Pick = %v; want it to wait until an endpoint can be reached", err)
		}
		lease.Done(accepted)
	})
}

func TestWaitForReadyDoesNotWaitForConfigurationErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 2, pool.Config{WaitForReady: true})
		tp.failDials(errUntrusted, 1, 2)
		tp.run()
		tp.wantPickFails(300*time.Millisecond, string(wire.TLSServerUntrusted), "certificate has expired")
	})
}

func TestPickNamesAllCauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 4, pool.Config{})
		tp.failDials(errUntrusted, 1, 2, 3)
		tp.failDials(errNoListener, 4)
		tp.run()
		tp.wantPickFails(300*time.Millisecond, pool.NoEndpoint, "certificate has expired")
		tp.wantPickFails(0, pool.NoEndpoint, "CONNECT_REFUSED at 1 of 4, such as 10.0.0.4:443: connection refused")
	})
}

func TestPickFailsWhenEstablishedConnectionsCannotBeReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{})
		advance(time.Second)
		tp.failDials(errUntrusted, 1, 2, 3)
		for i := 1; i <= 3; i++ {
			tp.lastConn(i).disconnect()
		}
		synctest.Wait()
		tp.wantPickFails(50*time.Millisecond, string(wire.TLSServerUntrusted), "certificate has expired")
	})
}

func TestPickFailsImmediatelyWithoutAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 1, pool.Config{})
		tp.dnsErr = errors.New("no such host")
		tp.run()
		tp.wantPickFails(0, string(wire.DNSFailure), "no such host")
		tp.setDNSErr(nil)
		advance(time.Minute)
		tp.pick().Done(accepted)
		tp.setDNSErr(errors.New("no such host")) // the last good answer stays in use
		advance(time.Minute)
		tp.pick().Done(accepted)
	})
}

func TestPickWaitsForEndpointThatMayConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 3, pool.Config{})
		tp.failDials(errNoListener, 1, 2)
		tp.setServer(3, func(s *fakeServer) { s.dialDelay = 3 * time.Second })
		tp.run()
		lease, err := tp.Pick(t.Context(), nil)
		if err != nil {
			t.Fatalf("Pick = %v while endpoint 3 was being dialed", err)
		}
		lease.Done(accepted)
	})
}

func TestPickTriesFurtherAddressesBeforeItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 2, pool.Config{Size: 1})
		tp.failDials(errNoListener, 1)
		tp.run()
		lease, err := tp.Pick(t.Context(), nil)
		if err != nil {
			t.Fatalf("Pick = %v; address 2 works", err)
		}
		lease.Done(accepted)
	})
}

// TestPoolRecoversSoonAfterOutage: however long nothing could be reached, the pool finds out within
// ten seconds that it can. It does not dial more often than the budget allows.
func TestPoolRecoversSoonAfterOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 8, pool.Config{})
		tp.failDials(errNoListener, 1, 2, 3, 4, 5, 6, 7, 8)
		tp.run()
		advance(20 * time.Minute)
		if violation := tp.checkDialBudget(8, 1); violation != "" {
			t.Error(violation)
		}
		tp.failDials(nil, 1, 2, 3, 4, 5, 6, 7, 8)
		advance(11 * time.Second)
		tp.pick().Done(accepted)
	})
}

func TestConfigurationErrorKeepsRedialDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 1, pool.Config{})
		tp.failDials(errUntrusted, 1)
		tp.run()
		advance(20 * time.Minute)
		if n := tp.dialCount(); n > 10 {
			t.Errorf("%d dials in twenty minutes; want the delay to grow to five minutes", n)
		}
	})
}

func TestOneWarningNamesTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		tp := newTestPool(t, 8, pool.Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
		tp.failDials(errUntrusted, 1, 2, 3, 4, 5, 6, 7, 8)
		tp.run()
		advance(20 * time.Minute)
		tp.stop()
		<-tp.ended
		if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "certificate has expired") {
			t.Errorf("want one warning with the cause:\n%s", log.String())
		}
	})
}

func TestUnusableUntilAnEndpointIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		if err := tp.Unusable(); err != nil {
			t.Errorf("with one healthy endpoint: %v", err)
		}
		tp.eject(2)
		if err := tp.Unusable(); err == nil || err.Reason != pool.BreakerOpen || !strings.Contains(err.Err.Error(), "all 2 connected endpoints are ejected, such as 10.0.0.") {
			t.Errorf("with ejected endpoints: %v", err)
		}
		advance(11 * time.Second)
		if tp.Unusable() == nil {
			t.Error("usable before the probe")
		}
		tp.pick().Done(accepted)
		if err := tp.Unusable(); err != nil {
			t.Errorf("after the probe: %v", err)
		}
		tp.failDials(errNoListener, 1, 2)
		tp.lastConn(1).disconnect()
		tp.lastConn(2).disconnect()
		advance(time.Second)
		if err := tp.Unusable(); err == nil || err.Reason != string(wire.ConnectRefused) {
			t.Errorf("without connections: %v", err)
		}
	})
}
