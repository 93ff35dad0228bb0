// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"iter"

	"github.com/sluice-push/sluice/push"
)

// Queue keeps notifications safe until they have ended. It is called from many goroutines at once.
type Queue interface {
	// Accept returns once each of the notifications is safe on disk or is known not to be: an error for each, nil for one
	// that is safe. A *push.FieldError says that it cannot be sent as it is, push.ErrFull that there is no room: then
	// nothing of it was kept. After any other error nobody can tell.
	Accept(ctx context.Context, ns []*push.Notification) []error
	// Cancel ends a notification that waits. The receipt tells how it stands then: cancelled, or what came first. The
	// error is push.ErrNotFound, or one after which nobody can tell.
	Cancel(ctx context.Context, app, id string) (push.Receipt, error)
}

// History knows what became of notifications, those of the queue and those that were sent at once. It is called from many
// goroutines at once.
type History interface {
	// Find returns a notification's receipt as it stands, and its events, the oldest first; push.ErrNotFound if there are
	// none.
	Find(ctx context.Context, app, id string) (push.Receipt, []push.Event, error)
	// Feed gives an app's events that want lets through: those behind the cursor after, and then those to come, until ctx
	// ends. "" stands for now, "oldest" for the beginning of what is kept. Where nothing was let through for a while, want is
	// asked about an event that has a cursor and no ID: who takes it can resume there. An error ends it: push.ErrForgotten or
	// push.ErrCursor about after, or one of the history's own.
	Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error]
	// Claim reserves n's Idempotency-Key (n.KeyHash) for one call, which ends the claim with done whatever came of it. If
	// there was another call with the key whose end stands, done is nil and the receipt is that one's as it is now. It waits
	// for a call that is under way. The error is push.ErrKeyReused (another n.BodyHash), push.ErrKeyBusy, or one of the
	// history's own.
	Claim(ctx context.Context, n *push.Notification, stands func(*push.Receipt) bool) (done func(), earlier push.Receipt, err error)
}
