// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// call names what an Idempotency-Key stands for: each app has its own.
type call struct{ app, key string }

// remembered is the answer to a call, or the promise of one.
type remembered struct {
	body  [sha256.Size]byte // hash of the body that came with the key
	done  chan struct{}     // closed once reply is there
	reply reply
	until time.Time
}

// memory keeps the answers to calls that came with an Idempotency-Key. It is this process's memory and no more: a
// restart forgets it, and another gateway does not share it.
type memory struct {
	most int
	keep time.Duration

	mu    sync.Mutex
	calls map[call]*remembered
	kept  []call // with an answer, oldest first; those in flight are in calls alone
}

func newMemory(most int, keep time.Duration) *memory {
	return &memory{most: most, keep: keep, calls: map[call]*remembered{}}
}

// claim returns the call's place, and whether the caller is the first there and so has to settle it.
func (m *memory) claim(c call, body [sha256.Size]byte) (place *remembered, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(time.Now())
	if place, ok := m.calls[c]; ok {
		return place, false
	}
	place = &remembered{body: body, done: make(chan struct{})}
	m.calls[c] = place
	return place, true
}

// settle gives the reply to all who wait at the place, and keeps it for those to come if keep is set.
func (m *memory) settle(c call, place *remembered, r reply, keep bool) {
	place.reply = r
	close(place.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !keep {
		delete(m.calls, c)
		return
	}
	place.until = time.Now().Add(m.keep)
	m.kept = append(m.kept, c)
	m.forget(time.Now())
}

// forget drops the oldest answers: those past their time, and those that are too many. The caller holds mu.
func (m *memory) forget(now time.Time) {
	for len(m.kept) > m.most || (len(m.kept) > 0 && now.After(m.calls[m.kept[0]].until)) {
		delete(m.calls, m.kept[0])
		m.kept = m.kept[1:]
	}
}

// sendOnce sends n unless the same call was made before, whose answer is then given again. The send does not end with
// its caller: one who lost the connection comes back with the same key to learn what came of it.
func (a *api) sendOnce(w *answer, r *http.Request, key string, body []byte, n *push.Notification) *problem {
	c, sum := call{w.app, key}, sha256.Sum256(body)
	place, first := a.answers.claim(c, sum)
	if place.body != sum {
		return &problem{kind: keyReused, field: "Idempotency-Key", detail: "must be a new one for a new body"}
	}
	if first {
		a.fill(r.Context(), c, place, n, w.requestID)
	}
	select {
	case <-place.done:
	case <-r.Context().Done():
		return nil
	}
	if !first {
		w.Header()["Idempotency-Replayed"] = replayed
	}
	if r.Context().Err() == nil {
		place.reply.write(w)
	}
	return nil
}

// fill sends n and settles the place, also if the sender panics.
func (a *api) fill(ctx context.Context, c call, place *remembered, n *push.Notification, requestID string) {
	reply, keep := (&problem{kind: internal}).reply(requestID), true
	defer func() { a.answers.settle(c, place, reply, keep) }()
	receipt := a.sender.Send(context.WithoutCancel(ctx), n) // it ends in its time
	reply, keep = replyTo(receipt, requestID), settled(receipt)
}

// settled reports whether a second send could double the notification or only hear the same verdict again. Otherwise
// nothing arrived, and the key is free for another try.
func settled(r push.Receipt) bool {
	for _, attempt := range r.Attempts {
		switch attempt.Verdict {
		case push.Accepted, push.Unregistered, push.Refused, push.Unknown, push.Abandoned:
			return true
		}
	}
	return r.Verdict == push.Accepted || r.Verdict == push.Unknown
}

// checkIdempotencyKey takes no key, or 1 to 255 visible ASCII characters.
func checkIdempotencyKey(key string) *problem {
	bad := len(key) > 255
	for _, c := range []byte(key) {
		bad = bad || c <= ' ' || c > '~'
	}
	if bad {
		return &problem{kind: invalidHeader, field: "Idempotency-Key", detail: "must be 1 to 255 visible ASCII characters"}
	}
	return nil
}
