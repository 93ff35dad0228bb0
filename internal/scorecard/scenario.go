// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// never is a time that did not come.
const never = load.Never

// options is what all rows share.
type options struct {
	ctx          context.Context
	tempDir      string // for files
	binary       string // the gateway
	logs         string // the folder that keeps the gateways' logs, or none
	inNamespace  bool   // this process has a network to itself
	noNamespaces bool   // and no process is to have one
}

// row is one line of the scorecard.
type row struct {
	id, fault string
	// check simulates the fault and records the figures; nil means not implemented.
	check func(*scenario)
	// apart says that the row needs a network of its own, and orHere that it can do without where there is none.
	isolated, isolationOptional bool
}

// run runs the row where it has to be run.
func (r row) run(h options) rowResult {
	if r.isolated && !(r.isolationOptional && h.noNamespaces) {
		return r.runIsolated(h)
	}
	return r.runLocal(h)
}

// runLocal runs the row in this process.
func (r row) runLocal(h options) rowResult {
	s := &scenario{options: h, rowResult: rowResult{ID: r.id, Fault: r.fault, Result: outcomeNotImplemented}}
	if r.check == nil {
		return s.rowResult
	}
	ctx, cancel := context.WithTimeout(h.ctx, 8*time.Minute)
	defer cancel()
	s.ctx = ctx
	began := time.Now()
	done := make(chan struct{})
	go func() { // a goroutine of its own, for Fatalf ends it
		defer close(done)
		defer s.cleanup()
		r.check(s)
		s.finished = true
	}()
	<-done
	s.rowResult.TookS = time.Since(began).Round(100 * time.Millisecond).Seconds()
	return s.rowResult.finish(s.finished)
}

// finish says how the row ended.
func (c rowResult) finish(finished bool) rowResult {
	c.Result = outcomePassed
	if !finished {
		c.Result = outcomeFailed
	}
	for _, f := range c.Figures {
		if !f.Pass {
			c.Result = outcomeFailed
		}
	}
	return c
}

// scenario is where one row is played. Like a test it ends by Fatalf, and cleans up behind itself.
type scenario struct {
	options
	rowResult
	cleanups []func()
	finished bool
}

var _ mockprovider.TB = (*scenario)(nil)

// Helper does nothing.
func (s *scenario) Helper() {}

// Cleanup has f called when the row has ended, the last one first.
func (s *scenario) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Fatalf ends the row: it falls short, for that reason.
func (s *scenario) Fatalf(format string, args ...any) {
	s.note(format, args...)
	s.finished = false
	runtime.Goexit()
}

// noError ends the row if there is an error.
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

// newTempDir is an empty one.
func (s *scenario) newTempDir() string {
	dir, err := os.MkdirTemp(s.tempDir, s.ID+"-")
	s.noError(err)
	return dir
}

// sleep waits, or ends the row with the command.
func (s *scenario) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
		s.Fatalf("ended before its time: %v", s.ctx.Err())
	}
}

// eventually waits until so is true, and returns how long that took.
func (s *scenario) eventually(what string, limit time.Duration, so func() bool) time.Duration {
	began := time.Now()
	for !so() {
		if time.Since(began) > limit {
			s.Fatalf("%s: not within %s", what, limit)
		}
		s.sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}
