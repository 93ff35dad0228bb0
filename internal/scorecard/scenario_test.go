// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// never is the duration until an event that did not occur.
const never = load.Never

// options are the options that all rows share.
type options struct {
	t            *testing.T
	ctx          context.Context
	tempDir      string // for temporary files
	binary       string // path of the gateway
	logs         string // directory for the logs of the gateways, or empty
	inNamespace  bool   // this process has its own network namespace
	noNamespaces bool   // use loopback addresses if the row allows it
}

// row is one line of the scorecard.
type row struct {
	id, fault string
	// check simulates the fault and records the figures; nil means not implemented.
	check func(*scenario)
	// isolated rows run in a network namespace. isolationOptional rows also run without one.
	isolated, isolationOptional bool
	// extra returns how much longer than eight minutes the row may take; nil means no longer.
	extra func() time.Duration
}

// run runs the row in this process or in a network namespace.
func (r row) run(opts options) rowResult {
	if r.isolated && !opts.inNamespace && !(r.isolationOptional && opts.noNamespaces) {
		return r.runIsolated(opts)
	}
	return r.runLocal(opts)
}

// runLocal runs the row in this process.
func (r row) runLocal(opts options) rowResult {
	s := &scenario{options: opts, rowResult: rowResult{ID: r.id, Fault: r.fault, Result: outcomeNotImplemented}}
	if r.check == nil {
		return s.rowResult
	}
	limit := 8 * time.Minute
	if r.extra != nil {
		limit += r.extra()
	}
	ctx, cancel := context.WithTimeout(opts.ctx, limit)
	defer cancel()
	s.ctx = ctx
	start := time.Now()
	done := make(chan struct{})
	go func() { // in its own goroutine because Fatalf ends it
		defer close(done)
		defer s.cleanup()
		r.check(s)
		s.finished = true
	}()
	<-done // bounded by the context of the row
	s.rowResult.TookS = time.Since(start).Round(100 * time.Millisecond).Seconds()
	return s.rowResult.finish(s.finished)
}

// finish sets the result of the row. A row fails if it did not finish or if a figure fails.
func (r rowResult) finish(finished bool) rowResult {
	r.Result = outcomePassed
	if !finished {
		r.Result = outcomeFailed
	}
	for _, f := range r.Figures {
		if !f.Pass {
			r.Result = outcomeFailed
		}
	}
	return r
}

// scenario is the environment of one row. Like a test, a row ends with Fatalf and registers cleanup
// functions.
type scenario struct {
	options
	rowResult
	cleanups []func()
	finished bool
}

var _ mockprovider.TB = (*scenario)(nil)

// Helper has no effect. mockprovider.TB requires it.
func (s *scenario) Helper() {}

// Cleanup registers a function to call when the row has ended, in reverse order of registration.
func (s *scenario) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Fatalf fails and ends the row. It must be called from the goroutine of the row.
func (s *scenario) Fatalf(format string, args ...any) {
	s.note(format, args...)
	s.finished = false
	runtime.Goexit()
}

// noError ends the row if err is not nil.
func (s *scenario) noError(err error) {
	if err != nil {
		s.Fatalf("%v", err)
	}
}

func (s *scenario) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

func (s *scenario) cleanup() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}

// newTempDir creates an empty directory.
func (s *scenario) newTempDir() string {
	dir, err := os.MkdirTemp(s.tempDir, s.ID+"-")
	s.noError(err)
	return dir
}

// sleep waits for d. It ends the row if the context ends.
func (s *scenario) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
		s.Fatalf("interrupted: %v", s.ctx.Err())
	}
}

// eventually waits until condition returns true and returns how long that took. It ends the row
// after limit.
func (s *scenario) eventually(what string, limit time.Duration, condition func() bool) time.Duration {
	start := time.Now()
	for !condition() {
		if time.Since(start) > limit {
			s.Fatalf("timed out after %[2]s: %[1]s", what, limit)
		}
		s.sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}
