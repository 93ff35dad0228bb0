// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"iter"

	"github.com/sluice-push/sluice/push"
)

// Queue stores notifications until they have ended. It is safe for concurrent use.
type Queue interface {
	// Accept returns when it is known for each notification whether it is stored on disk. It
	// returns one error per notification, nil for one that is stored. A *push.FieldError means that
	// the notification is invalid, and push.ErrFull that there is no space; in both cases it is not
	// stored. After any other error it is unknown.
	Accept(ctx context.Context, ns []*push.Notification) []error
	// Cancel cancels a queued or scheduled notification. The receipt contains the current status:
	// cancelled, or what happened first. The error is push.ErrNotFound, or one after which the
	// status is unknown.
	Cancel(ctx context.Context, app, id string) (push.Receipt, error)
}

// History records the results of all notifications, queued and synchronous. It is safe for
// concurrent use.
type History interface {
	// Find returns the current receipt of a notification and its events, oldest first. The error is
	// push.ErrNotFound if there are none.
	Find(ctx context.Context, app, id string) (push.Receipt, []push.Event, error)
	// Search returns notifications of an app, the newest first. The error is push.ErrInvalidCursor or
	// push.ErrCursorExpired, or one after which the search can be repeated.
	Search(ctx context.Context, app string, q push.Query) (push.Page, error)
	// Stats counts the notifications of an app that have ended. Its errors are those of Search without a
	// cursor.
	Stats(ctx context.Context, app string, q push.StatsQuery) (push.Stats, error)
	// Feed yields the events of an app for which want returns true: those after the cursor, and
	// then new ones, until ctx ends. The cursor "" means now, and "oldest" the oldest stored event.
	// If no event passed want for a while, it calls want with an event that has a cursor but no ID:
	// a client can resume there. An error ends the feed: push.ErrCursorExpired or push.ErrCursor
	// for an invalid after, or an error of the history.
	Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error]
}
