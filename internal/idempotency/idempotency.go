// SPDX-License-Identifier: Apache-2.0

// Package idempotency makes sure that requests with the same Idempotency-Key have the effect of one.
// A request claims its key before it sends. Another request with the key waits for it, and gets its
// receipt. The package sends nothing.
package idempotency

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/sluice-push/sluice/push"
)

// Store remembers the receipts of requests with an Idempotency-Key. It is safe for concurrent use.
type Store interface {
	// Claim claims n's key (n.KeyHash) for a request with a body (n.BodyHash). The request must then
	// call release once: with its receipt, or with nil if it sent nothing.
	//
	// If an earlier request had the key, release is nil, and earlier is the current receipt of that
	// request. It has left the key free if nothing arrived and nothing will. Claim waits while
	// another request has the key. The error is push.ErrKeyInUse if ctx ends first, push.ErrKeyReused
	// if the key was used with another body, or an error of the storage.
	Claim(ctx context.Context, n *push.Notification) (release func(*push.Receipt), earlier push.Receipt, err error)
}

// isFinal reports whether a request with this receipt keeps its key, because another send could
// deliver the notification twice or would get the same verdict. Otherwise nothing arrived or will
// arrive, and the key can be used for another attempt.
func isFinal(r *push.Receipt) bool {
	for _, attempt := range r.Attempts {
		switch attempt.Verdict {
		case push.Accepted, push.Unregistered, push.Refused, push.Unknown, push.Abandoned:
			return true
		}
	}
	return !r.NeverQueued() && (r.State != "" || r.Verdict == push.Accepted || r.Verdict == push.Unknown)
}

// requests holds the requests in progress of this process, by the hash of their keys. The zero value
// has none.
type requests struct {
	mu         sync.Mutex
	inProgress map[string]*request
}

// request is a request that has the key of n in this process.
type request struct {
	n       *push.Notification
	ended   chan struct{}
	receipt *push.Receipt // for those that wait, set before ended is closed; nil if they must look it up
}

// begin returns a new request with n's key. While another request has the key, begin waits. If that
// request ends with a receipt, begin returns it instead.
func (r *requests) begin(ctx context.Context, n *push.Notification) (own *request, receipt *push.Receipt, err error) {
	for {
		added, other := r.add(n)
		if added != nil {
			return added, nil, nil
		}
		if !bytes.Equal(other.n.BodyHash, n.BodyHash) {
			return nil, nil, push.ErrKeyReused
		}
		select {
		case <-other.ended:
		case <-ctx.Done():
			return nil, nil, keyInUse(ctx.Err())
		}
		if other.receipt != nil {
			return nil, other.receipt, nil
		}
	}
}

// add adds a request with n's key, or returns the one that has it.
func (r *requests) add(n *push.Notification) (added, other *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.inProgress[string(n.KeyHash)]; other != nil {
		return nil, other
	}
	added = &request{n: n, ended: make(chan struct{})}
	if r.inProgress == nil {
		r.inProgress = map[string]*request{}
	}
	r.inProgress[string(n.KeyHash)] = added
	return added, nil
}

// end ends a request. Those that wait for it get the receipt.
func (r *requests) end(own *request, receipt *push.Receipt) {
	own.receipt = receipt
	r.mu.Lock()
	delete(r.inProgress, string(own.n.KeyHash))
	r.mu.Unlock()
	close(own.ended)
}

func keyInUse(err error) error { return fmt.Errorf("%w: %w", push.ErrKeyInUse, err) }
