// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"hash/maphash"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	logrecord "github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// reasonInDoubt is the reason of an end whose gateway died during an attempt.
const reasonInDoubt = "IN_DOUBT"

// anyVersion accepts what other decoders of the project accept, in case an earlier version stored it.
var anyVersion = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// record is what an audit stores of an event, or of a task in a queue. A task has only an ID and an
// app.
type record struct {
	ID      uuid.UUID   `json:"id"`
	App     string      `json:"app"`
	At      time.Time   `json:"at"`
	Status  push.Status `json:"status"`
	Attempt int         `json:"attempt"`
	KeyHash []byte      `json:"key_hash"`

	Platform push.Platform `json:"platform"`

	seq    uint64 // of its message; zero for a task
	item   int    // its index in the message
	reason string // of an end as unknown or cancelled, or of any end in the audit of a broadcast
	end    int64  // hash of the end
	unsent bool   // it is an end without an attempt, such as a cancellation
	late   bool   // it was appended while the audit ran
}

// eventOf returns the JSON text of an item: an event, or a record of a log, whose kind it also returns. A
// record of kind Task is also a task, which is in the queue until its end.
func eventOf(item []byte) (text []byte, kind logrecord.Kind, err error) {
	if !logrecord.IsRecord(item) {
		return item, 0, nil
	}
	r, err := logrecord.Parse(item)
	if err != nil {
		return nil, 0, err
	}
	e := r.Event()
	text, err = e.AppendJSON(nil)
	return text, r.Kind, err
}

// parseEvent parses an event. Its position is not set.
func (a *auditor) parseEvent(text []byte) (*record, error) {
	var e struct {
		record
		Receipt jsontext.Value `json:"receipt"`
	}
	if err := json.Unmarshal(text, &e, anyVersion); err != nil {
		return nil, err
	}
	r, digest := &e.record, string(e.Receipt)
	inDoubt := r.Status == push.StatusUnknown || r.Status == push.StatusCancelled
	if inDoubt || a.of != nil {
		var receipt struct {
			Reason string `json:"reason"`
		}
		_ = json.Unmarshal(e.Receipt, &receipt, anyVersion) // without a reason it is neither lost nor not stored
		r.reason = receipt.Reason
	}
	if inDoubt { // two copies of a task can be, with different earlier attempts
		digest = r.reason
	}
	r.end = int64(maphash.String(a.seed, string(r.Status)+digest))
	return r, nil
}

func (r *record) cursor() string {
	if r.seq == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", r.seq, r.item)
}

// notification is the state of a notification. It is independent of history.State on purpose, so
// that an audit also checks that.
type notification struct {
	first *record // its first event; its task if it has none

	key       []byte    // of its first event with an Idempotency-Key; nil without one
	keyFrom   time.Time // time of its first event with the key
	keyUntil  time.Time // and of its last one
	delivered bool
	unknown   bool // it ended as unknown
	inDoubt   bool // because its gateway died during an attempt
	lost      bool // it ended because the disk or the cluster lost its task
	notStored bool // it ended because its task was never stored
	missing   bool // it ended because a cluster does not have its task
	accepted  bool // an event says so
	queued    bool // it is in a queue
	fromQueue bool // it was sent by the queue, not synchronously
	late      bool // an event was appended while the audit ran
	attempted bool // an attempt started
	sending   bool // an attempt started and it was not rescheduled since
	attempts  int  // number of the last attempt; one with a lower number was not sent
	cancelled bool // it has ended without an attempt
	ends      int
	end       int64
	valid     *record // the end that counts: the first one
}

// apply adds the next event, or first of all the task.
func (n *notification) apply(r *record) {
	if r.seq == 0 {
		n.queued = true
		return
	}
	if n.first.seq == 0 {
		n.first = r
	}
	if len(r.KeyHash) > 0 {
		if n.key == nil {
			n.key, n.keyFrom = r.KeyHash, r.At
		}
		n.keyUntil = r.At
	}
	n.late = n.late || r.late
	n.lost = n.lost || r.reason == push.ReasonTaskLost
	n.notStored = n.notStored || r.reason == push.ReasonNotStored
	n.missing = n.missing || r.reason == push.ReasonTaskMissing
	switch {
	case r.Status == push.StatusQueued, r.Status == push.StatusScheduled:
		n.accepted = n.accepted || r.Attempt == 0
		n.sending = n.sending && r.Attempt < n.attempts
	case r.Status == push.StatusSending:
		n.fromQueue = n.fromQueue || len(r.KeyHash) == 0
		if r.Attempt > n.attempts && n.ends == 0 { // otherwise another gateway was first
			n.attempted, n.sending, n.attempts = true, true, r.Attempt
		}
	case r.unsent:
		if !n.sending && n.ends == 0 { // otherwise it came too late
			n.ends, n.cancelled, n.valid = 1, true, r
		}
	default:
		n.delivered = n.delivered || r.Status == push.StatusAccepted
		n.unknown = n.unknown || r.Status == push.StatusUnknown
		n.inDoubt = n.inDoubt || r.reason == reasonInDoubt
		if n.ends == 0 {
			n.valid = r
		}
		if n.ends == 0 || n.cancelled || r.end != n.end { // the same end may occur twice, after a write with unknown result
			n.ends++
		}
		n.end, n.cancelled = r.end, false
	}
}

// waits reports whether the notification will be sent.
func (n *notification) waits() bool { return n.queued && n.ends == 0 }

// mayArrive reports whether the notification was delivered, may have been, or will be sent.
func (n *notification) mayArrive() bool {
	return n.delivered || n.waits() || n.attempted && (n.unknown || n.ends == 0)
}

// blocksKey reports whether no other notification may be sent with its key. A synchronous send whose
// gateway died does not block it: on_unknown decides whether it is repeated, and no event says so.
func (n *notification) blocksKey() bool {
	return n.mayArrive() && (n.delivered || n.accepted || n.unknown && !n.inDoubt)
}
