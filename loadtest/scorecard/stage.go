// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// never is a time that did not come.
const never = loadtest.Never

// house is what all rows share.
type house struct {
	ctx    context.Context
	dir    string // for files
	binary string // the gateway
	logs   string // the folder that keeps the gateways' logs, or none
	alone  bool   // this process has a network to itself
	here   bool   // and no process is to have one
}

// row is one line of the scorecard.
type row struct {
	id, fault string
	// judge plays the fault and enters the figures; nil: not built.
	judge func(*stage)
	// apart says that the row needs a network of its own, and orHere that it can do without where there is none.
	apart, orHere bool
}

// run runs the row where it has to be run.
func (r row) run(h house) card {
	if r.apart && !(r.orHere && h.here) {
		return r.playApart(h)
	}
	return r.play(h)
}

// play runs the row in this process.
func (r row) play(h house) card {
	s := &stage{house: h, card: card{ID: r.id, Fault: r.fault, Result: notBuilt}}
	if r.judge == nil {
		return s.card
	}
	ctx, cancel := context.WithTimeout(h.ctx, 8*time.Minute)
	defer cancel()
	s.ctx = ctx
	began := time.Now()
	done := make(chan struct{})
	go func() { // a goroutine of its own, for Fatalf ends it
		defer close(done)
		defer s.clear()
		r.judge(s)
		s.finished = true
	}()
	<-done
	s.card.TookS = time.Since(began).Round(100 * time.Millisecond).Seconds()
	return s.card.close(s.finished)
}

// close says how the row ended.
func (c card) close(finished bool) card {
	c.Result = passed
	if !finished {
		c.Result = short
	}
	for _, f := range c.Figures {
		if !f.Pass {
			c.Result = short
		}
	}
	return c
}

// stage is where one row is played. Like a test it ends by Fatalf, and cleans up behind itself.
type stage struct {
	house
	card
	cleanups []func()
	finished bool
}

var _ mockprovider.TB = (*stage)(nil)

// Helper does nothing.
func (s *stage) Helper() {}

// Cleanup has f called when the row has ended, the last one first.
func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Fatalf ends the row: it falls short, for that reason.
func (s *stage) Fatalf(format string, args ...any) {
	s.note(format, args...)
	s.finished = false
	runtime.Goexit()
}

// need ends the row if there is an error.
func (s *stage) need(err error) {
	if err != nil {
		s.Fatalf("%v", err)
	}
}

func (s *stage) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

func (s *stage) clear() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}

// folder is an empty one.
func (s *stage) folder() string {
	dir, err := os.MkdirTemp(s.dir, s.ID+"-")
	s.need(err)
	return dir
}

// sleep waits, or ends the row with the command.
func (s *stage) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
		s.Fatalf("ended before its time: %v", s.ctx.Err())
	}
}

// eventually waits until so is true, and returns how long that took.
func (s *stage) eventually(what string, limit time.Duration, so func() bool) time.Duration {
	began := time.Now()
	for !so() {
		if time.Since(began) > limit {
			s.Fatalf("%s: not within %s", what, limit)
		}
		s.sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}
