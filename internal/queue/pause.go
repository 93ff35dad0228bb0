// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"time"

	"github.com/sluice-push/sluice/push"
)

// A flow pauses while the provider takes nothing. Otherwise each task of a backlog is read, tried and
// rescheduled again and again during an outage, and most are late after it. The pause doubles with each
// failure from minPause to maxPause, which is also the most that an outage delays a task after its end.
// After a pause a run of probeSize tasks shows whether the provider takes notifications again.
const (
	minPause  = 250 * time.Millisecond
	maxPause  = 5 * time.Second
	probeSize = 8
)

// pause is the state of a flow whose sends fail. It is zero while they are answered.
type pause struct {
	length  time.Duration
	until   time.Time
	probing bool // a run has started since
}

// limit returns how many tasks the next run may have.
func (p *pause) limit() int {
	switch {
	case p.length == 0:
		return maxRun
	case p.probing || time.Now().Before(p.until):
		return 0
	default:
		return probeSize
	}
}

// extend starts the next pause.
func (p *pause) extend() {
	length := min(maxPause, max(minPause, 2*p.length))
	*p = pause{length: length, until: time.Now().Add(length)}
}

// signal is what the result of a send says about its provider. The highest one of a run counts.
type signal int

const (
	noSignal signal = iota
	failed
	answered
)

// signalOf returns the signal of a result. A failure that concerns only one device or topic is none.
func signalOf(o *push.Outcome) signal {
	switch {
	case o.Verdict == push.Expired || o.Verdict == push.Abandoned:
		return noSignal
	case !o.Retryable():
		return answered
	case o.Scope == push.ScopeDevice || o.Scope == push.ScopeTopic:
		return noSignal
	default:
		return failed
	}
}

// noteResults adds results to the signal of the run, and pauses or resumes its flow accordingly.
func (r *run) noteResults(results []result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range results {
		r.signal = max(r.signal, signalOf(&t.receipt.Outcome))
	}
	switch {
	case r.signal == answered:
		r.flow.pause = pause{}
	case r.signal == failed && r.flow.pause.length == 0:
		r.pauseFlow(r.flow)
	}
}

// endProbe extends the pause of a flow, if its probe has failed, or lets the next run start.
func (q *Queue) endProbe(fl *flow, s signal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if fl.pause.probing = false; s == failed {
		q.pauseFlow(fl)
	} else {
		q.startRuns(fl)
	}
}

// pauseFlow starts or extends the pause of a flow. The caller holds q.mu.
func (q *Queue) pauseFlow(fl *flow) {
	fl.pause.extend()
	time.AfterFunc(fl.pause.length, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.startRuns(fl)
	})
}
