// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Entry is one request as a service saw it. Credentials are never kept.
type Entry struct {
	Seq      uint64    `json:"seq"` // counts the entries from 1
	Service  string    `json:"service"`
	Endpoint string    `json:"endpoint"` // its address
	Conn     uint64    `json:"conn"`     // counts the endpoint's connections from 1
	Stream   uint32    `json:"stream"`   // 0 over HTTP/1.1
	Time     time.Time `json:"time"`     // when it was settled
	Path     string    `json:"path"`
	// Token is the device token; for FCM whatever the target says, for Web Push the path after /push/, for Apple's
	// broadcasts and channels the channel.
	Token string `json:"token,omitempty"`
	// ID is the apns-id, or of channels and broadcasts the apns-request-id, sent or made; FCM's message name; Web Push's message.
	ID       string `json:"apns_id,omitempty"`
	Topic    string `json:"topic,omitempty"`     // apns-topic
	PushType string `json:"push_type,omitempty"` // apns-push-type
	// Status is what was answered, or would have been, and 0 when the request was never processed.
	Status int    `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Accepted says that the service took the notification, Answered that it also said so to the client: the two differ
	// when an answer was dropped.
	Accepted bool `json:"accepted"`
	Answered bool `json:"answered"`
	// Fault is the effect of the script that the request met, or what else kept the answer back.
	Fault string `json:"fault,omitempty"`
	// Undecryptable says why the browser behind a Web Push subscription could not open the message; the service, which has
	// no key, accepted it all the same.
	Undecryptable string `json:"undecryptable,omitempty"`
	// Header, Body and Plaintext are kept with Config.KeepContent only. Plaintext is what a Web Push message said.
	Header    [][2]string `json:"header,omitempty"`
	Body      string      `json:"body,omitempty"`
	Plaintext string      `json:"plaintext,omitempty"`
}

// record is an Entry as it is kept: small, for there may be a million.
type record struct {
	endpoint *endpoint
	conn     uint64
	at       int64
	content  *content
	stream   uint32
	status   uint16
	accepted bool
	answered bool
	path, token, id, topic,
	pushType, reason, fault string
}

// content is what most records have none of.
type content struct {
	header [][2]string
	body   string
	opened
}

// Ledger is what the services received. It is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	size    int
	ring    []record // grows to size, then the oldest is overwritten
	total   uint64   // entries since the last Clear, kept or not
	counts  map[*endpoint]*tally
	scopes  map[scopeName]*scopeTally
	waiters []*waiter
}

func newLedger(size int) *Ledger {
	return &Ledger{size: size, counts: map[*endpoint]*tally{}, scopes: map[scopeName]*scopeTally{}}
}

// add keeps one record and counts it.
func (l *Ledger) add(r record) {
	now := time.Now()
	r.at = now.UnixNano()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally(r.endpoint).count(&r, now.Unix())
	if len(l.ring) < l.size {
		l.ring = append(l.ring, r)
	} else {
		l.ring[l.total%uint64(l.size)] = r
	}
	l.total++
	if len(l.waiters) > 0 {
		l.tell(&r, l.total)
	}
}

// Query selects entries; every member that is left out matches all.
type Query struct {
	Service  string
	Endpoint string // an address
	Token    string // exact, or a beginning with * behind
	ID       string // compared without regard to case
	Reason   string
	Status   int
	Accepted *bool
	After    uint64 // only entries with a greater Seq
	Limit    int    // at most so many, the newest ones; 0: all
}

// Entries returns what matches and is still kept, oldest first.
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

// Count is how many entries match and are still kept.
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

// AcceptedByID counts, for each ID that is still kept, how often it was accepted: 1 is right, more is a duplicate.
func (l *Ledger) AcceptedByID() map[string]int {
	return l.acceptedBy(func(r *record) string { return strings.ToLower(r.id) })
}

// AcceptedByToken counts, for each device token that is still kept, how often a notification to it was accepted.
func (l *Ledger) AcceptedByToken() map[string]int {
	return l.acceptedBy(func(r *record) string { return r.token })
}

func (l *Ledger) acceptedBy(key func(*record) string) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{}
	for i := range l.ring {
		if r := &l.ring[i]; r.accepted && r.endpoint.service != OAuth && r.endpoint.service != APNsManage {
			counts[key(r)]++
		}
	}
	return counts
}

// Clear forgets all entries and counts, dials too.
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

func (q *Query) matches(r *record) bool {
	prefix, open := strings.CutSuffix(q.Token, "*")
	return (q.Service == "" || q.Service == r.endpoint.service) &&
		(q.Endpoint == "" || q.Endpoint == r.endpoint.address()) &&
		(q.Token == "" || q.Token == r.token || open && strings.HasPrefix(r.token, prefix)) &&
		(q.ID == "" || strings.EqualFold(q.ID, r.id)) &&
		(q.Reason == "" || q.Reason == r.reason) &&
		(q.Status == 0 || q.Status == int(r.status)) &&
		(q.Accepted == nil || *q.Accepted == r.accepted)
}

func (r *record) entry(seq uint64) Entry {
	e := Entry{
		Seq: seq, Service: r.endpoint.service, Endpoint: r.endpoint.address(), Conn: r.conn, Stream: r.stream,
		Time: time.Unix(0, r.at), Path: r.path, Token: r.token, ID: r.id, Topic: r.topic, PushType: r.pushType,
		Status: int(r.status), Reason: r.reason, Accepted: r.accepted, Answered: r.answered, Fault: r.fault,
	}
	if c := r.content; c != nil {
		e.Header, e.Body, e.Plaintext, e.Undecryptable = c.header, c.body, c.plaintext, c.fault
	}
	return e
}

// contentOf copies a request's content, without its credentials. If content is not kept, only that a browser could not
// read it is noted.
func contentOf(r *request, keep bool) *content {
	if !keep && (r.opened == nil || r.opened.fault == "") {
		return nil
	}
	c := &content{}
	if r.opened != nil {
		c.opened = *r.opened
	}
	if !keep {
		return c
	}
	c.body = string(r.body)
	for _, f := range r.header {
		if f.Name != "authorization" && f.Name != "cookie" {
			c.header = append(c.header, [2]string{f.Name, f.Value})
		}
	}
	return c
}
