// SPDX-License-Identifier: Apache-2.0

package push

import "time"

// Query selects notifications of an app in the history. Zero fields select all.
type Query struct {
	Tag string
	// Statuses are the current statuses of the notifications.
	Statuses []Status
	Platform Platform
	// Since and Until bound Summary.CreatedAt: from Since on, and before Until.
	Since, Until time.Time
	// Limit is the maximum number of results, 1 to 1,000; zero means 100.
	Limit int
	// Cursor is Page.NextCursor of the page before this one.
	Cursor string
}

// Limits of Query.Limit.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Page is a part of the result of a Query.
type Page struct {
	// Notifications are the newest first. A page that had to read too much of the history has fewer than
	// Query.Limit, or none.
	Notifications []Summary `json:"notifications"`
	// NextCursor is the cursor of the next page. It is empty if there is none.
	NextCursor string `json:"next_cursor,omitempty"`
}

// Summary is the current state of a notification.
type Summary struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	// Reason is that of the receipt of a notification that has ended.
	Reason   string   `json:"reason,omitempty"`
	Platform Platform `json:"platform,omitempty"`
	Lane     Lane     `json:"lane,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	// CreatedAt is the time of the first event: of the acceptance or, if the notification was sent
	// synchronously, of its result. Results are in the order in which these events were stored.
	CreatedAt time.Time `json:"created_at"`
	// UpdatedAt is the time of the event that led to Status.
	UpdatedAt time.Time `json:"updated_at"`
	// SendAt is when a waiting notification is due.
	SendAt time.Time `json:"send_at,omitzero"`
	// AttemptCount is the number of attempts started.
	AttemptCount int `json:"attempt_count"`
}
