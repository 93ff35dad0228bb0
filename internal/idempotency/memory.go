// SPDX-License-Identifier: Apache-2.0

package idempotency

import (
	"bytes"
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Memory is a Store in memory: it is lost on restart and not shared with other gateways. The zero
// value stores 50,000 receipts of each app, of about 1 KiB each, for a day. Requests that wait get
// the receipt of the request in progress, also if it leaves the key free.
type Memory struct {
	// MaxEntries limits the number of stored receipts of one app; 0 means 50,000. No app can evict
	// the receipts of another.
	MaxEntries int
	// TTL is how long a receipt is stored; 0 means 24 hours.
	TTL time.Duration

	requests requests

	mu    sync.Mutex
	apps  map[string]*appReceipts
	swept time.Time // when expired receipts of all apps were removed
}

var _ Store = (*Memory)(nil)

// appReceipts holds the receipts of one app.
type appReceipts struct {
	entries map[string]*entry
	keys    []string // of the entries, oldest first
}

// entry is the receipt of an earlier request.
type entry struct {
	bodyHash []byte
	receipt  *push.Receipt
	expires  time.Time
}

// sweepInterval is how often the expired receipts of apps without requests are removed.
const sweepInterval = time.Minute

// Claim implements Store.
func (m *Memory) Claim(ctx context.Context, n *push.Notification) (release func(*push.Receipt), earlier push.Receipt, err error) {
	own, receipt, err := m.requests.begin(ctx, n)
	if err != nil {
		return nil, push.Receipt{}, err
	}
	if receipt != nil {
		return nil, *receipt, nil
	}
	if found := m.find(n); found != nil {
		m.requests.end(own, nil)
		if !bytes.Equal(found.bodyHash, n.BodyHash) {
			return nil, push.Receipt{}, push.ErrKeyReused
		}
		return nil, *found.receipt, nil
	}
	return func(receipt *push.Receipt) {
		if receipt != nil && isFinal(receipt) {
			m.store(n, receipt)
		}
		m.requests.end(own, receipt)
	}, push.Receipt{}, nil
}

// find returns the entry of n's key, or nil.
func (m *Memory) find(n *push.Notification) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Sub(m.swept) >= sweepInterval {
		m.sweep(now)
	}
	app := m.apps[n.App]
	if app == nil {
		return nil
	}
	m.evict(app, now)
	return app.entries[string(n.KeyHash)]
}

// store stores the receipt of n.
func (m *Memory) store(n *push.Notification, receipt *push.Receipt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	app := m.apps[n.App]
	if app == nil {
		app = &appReceipts{entries: map[string]*entry{}}
		if m.apps == nil {
			m.apps = map[string]*appReceipts{}
		}
		m.apps[n.App] = app
	}
	now, key := time.Now(), string(n.KeyHash)
	app.entries[key] = &entry{n.BodyHash, receipt, now.Add(cmp.Or(m.TTL, 24*time.Hour))}
	app.keys = append(app.keys, key)
	m.evict(app, now)
}

// evict removes the oldest receipts of an app: those that have expired and those beyond MaxEntries.
// The caller holds mu.
func (m *Memory) evict(app *appReceipts, now time.Time) {
	for len(app.keys) > cmp.Or(m.MaxEntries, 50_000) || len(app.keys) > 0 && now.After(app.entries[app.keys[0]].expires) {
		delete(app.entries, app.keys[0])
		app.keys = app.keys[1:]
	}
}

// sweep removes the expired receipts of all apps. The caller holds mu.
func (m *Memory) sweep(now time.Time) {
	m.swept = now
	for name, app := range m.apps {
		if m.evict(app, now); len(app.entries) == 0 {
			delete(m.apps, name)
		}
	}
}
