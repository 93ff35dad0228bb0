// SPDX-License-Identifier: Apache-2.0

// Package ledger records the requests that the mocked services receive, counts them, and lets tests
// query the record or wait for entries. It has no view of the services themselves: whatever they
// found out about a request arrives in a Record.
package ledger

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Entry is one request as a service received it. Credentials are never kept.
type Entry struct {
	Seq      uint64    `json:"seq"` // numbers the entries from 1
	Service  string    `json:"service"`
	Endpoint string    `json:"endpoint"` // address of the endpoint
	Conn     uint64    `json:"conn"`     // numbers the connections of the endpoint from 1
	Stream   uint32    `json:"stream"`   // 0 over HTTP/1.1
	Time     time.Time `json:"time"`     // when the request was answered or given up
	Path     string    `json:"path"`
	// Token is the device token. For FCM it is the target of the message, for Web Push the path
	// after /push/, for Apple's broadcasts and channels the channel ID.
	Token string `json:"token,omitempty"`
	// ID is the apns-id, or for channels and broadcasts the apns-request-id, from the request or
	// generated; for FCM the name of the message; for Web Push the ID of the message.
	ID       string `json:"apns_id,omitempty"`
	Topic    string `json:"topic,omitempty"`     // apns-topic
	PushType string `json:"push_type,omitempty"` // apns-push-type
	// Status is the status of the response, even of one that was not sent, and 0 if the request was
	// never processed.
	Status int    `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Accepted reports whether the service accepted the notification, Answered whether the response
	// was sent to the client. They differ when a response was dropped.
	Accepted bool `json:"accepted"`
	Answered bool `json:"answered"`
	// Fault names the effect of the script on the request, or another reason why there was no
	// response.
	Fault string `json:"fault,omitempty"`
	// Undecryptable is the reason why the browser behind a Web Push subscription could not decrypt the
	// message. The service, which has no key, accepts such a message.
	Undecryptable string `json:"undecryptable,omitempty"`
	// Header, Body and Plaintext are kept only if the mock is configured to keep content. Plaintext
	// is a decrypted Web Push message.
	Header    [][2]string `json:"header,omitempty"`
	Body      string      `json:"body,omitempty"`
	Plaintext string      `json:"plaintext,omitempty"`
}

// Endpoint identifies one address of one service. The ledger compares endpoints by pointer.
type Endpoint struct {
	Service string
	Addr    string
	// Notifications is true if each accepted request of the service is a notification.
	Notifications bool
}

// Record is an Entry in the form in which it is stored, which is small because a ledger may hold a
// million of them.
type Record struct {
	Endpoint *Endpoint
	Conn     uint64
	at       int64    // Unix time in nanoseconds, set by Add
	Content  *Content // nil for most records
	Stream   uint32
	Status   uint16
	Accepted bool
	Answered bool
	Path, Token, ID, Topic,
	PushType, Reason, Fault string
}

// Content is the part of an Entry that most records lack.
type Content struct {
	Header                         [][2]string
	Body, Plaintext, Undecryptable string
}

// Ledger holds the entries. It is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	size    int
	ring    []Record // grows to size; then the oldest record is overwritten
	total   uint64   // entries since the last Clear, including overwritten ones
	counts  map[*Endpoint]*tally
	scopes  map[scopeName]*scopeTally
	waiters []*waiter
}

// New returns a ledger that keeps the newest size entries.
func New(size int) *Ledger {
	return &Ledger{size: size, counts: map[*Endpoint]*tally{}, scopes: map[scopeName]*scopeTally{}}
}

// Add stores one record, counts it, and sets its time.
func (l *Ledger) Add(r Record) {
	now := time.Now()
	r.at = now.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally(r.Endpoint).count(&r, now.Unix())
	if len(l.ring) < l.size {
		l.ring = append(l.ring, r)
	} else {
		l.ring[l.total%uint64(l.size)] = r
	}
	l.total++
	if len(l.waiters) > 0 {
		l.notify(&r, l.total)
	}
}

// Entries returns the stored entries that match, oldest first.
func (l *Ledger) Entries(q Query) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []Entry
	for i := range l.ring {
		seq := l.total - uint64(i)
		if seq <= q.After || q.Limit > 0 && len(found) == q.Limit {
			break
		}
		if r := &l.ring[(seq-1)%uint64(l.size)]; q.matches(r) {
			found = append(found, r.entry(seq))
		}
	}
	slices.Reverse(found)
	return found
}

// Count returns the number of stored entries that match. It ignores q.Limit.
func (l *Ledger) Count(q Query) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count(&q)
}

// count is Count with mu held.
func (l *Ledger) count(q *Query) int {
	n := 0
	for i := range l.ring {
		seq := l.total - uint64(i)
		if seq <= q.After {
			break
		}
		if q.matches(&l.ring[(seq-1)%uint64(l.size)]) {
			n++
		}
	}
	return n
}

// AcceptedByID returns, for each ID in the stored entries, how often a notification with that ID was
// accepted. More than once means a duplicate.
func (l *Ledger) AcceptedByID() map[string]int {
	return l.acceptedBy(func(r *Record) string { return strings.ToLower(r.ID) })
}

// AcceptedByToken returns, for each device token in the stored entries, how many notifications to it
// were accepted.
func (l *Ledger) AcceptedByToken() map[string]int {
	return l.acceptedBy(func(r *Record) string { return r.Token })
}

func (l *Ledger) acceptedBy(key func(*Record) string) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{}
	for i := range l.ring {
		if r := &l.ring[i]; r.Accepted && r.Endpoint.Notifications {
			counts[key(r)]++
		}
	}
	return counts
}

// Clear removes all entries and resets all counts, except the number of open connections.
func (l *Ledger) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring, l.total = nil, 0
	clear(l.scopes)
	for _, w := range l.waiters {
		if w.missing > 0 {
			w.missing = w.want
		}
	}
	for _, t := range l.counts {
		*t = tally{open: t.open, reasons: map[string]uint64{}}
	}
}

func (r *Record) entry(seq uint64) Entry {
	e := Entry{
		Seq: seq, Service: r.Endpoint.Service, Endpoint: r.Endpoint.Addr, Conn: r.Conn, Stream: r.Stream,
		Time: time.Unix(0, r.at), Path: r.Path, Token: r.Token, ID: r.ID, Topic: r.Topic, PushType: r.PushType,
		Status: int(r.Status), Reason: r.Reason, Accepted: r.Accepted, Answered: r.Answered, Fault: r.Fault,
	}
	if c := r.Content; c != nil {
		e.Header, e.Body, e.Plaintext, e.Undecryptable = c.Header, c.Body, c.Plaintext, c.Undecryptable
	}
	return e
}
