// SPDX-License-Identifier: Apache-2.0

package push

import "time"

// Event is one state change of a notification, as the history stores it and the event feeds deliver
// it. Its JSON form is stored, so it must stay compatible. It can contain a device token: show it
// only to the app that it belongs to.
type Event struct {
	// Cursor is the event's position in the history, from which a reader can resume. It is the
	// event ID in server-sent events. The history assigns it; it is not part of the stored event.
	Cursor string `json:"-"`
	// ID identifies the notification.
	ID  string    `json:"id"`
	App string    `json:"app"`
	At  time.Time `json:"at"`
	// Status is the notification's new state: queued or scheduled on acceptance, sending before
	// each attempt, and a final state together with Receipt.
	Status   Status   `json:"status"`
	Platform Platform `json:"platform,omitempty"`
	Lane     Lane     `json:"lane,omitempty"`
	// Tags are those of the notification. The events of acceptance and of the end have them.
	Tags []string `json:"tags,omitempty"`
	// Broadcast is the ID of the broadcast that the notification belongs to, and Line its line in the
	// audience. An event of the broadcast itself has no line.
	Broadcast string `json:"broadcast,omitempty"`
	Line      uint32 `json:"line,omitempty"`
	// Attempt is the attempt's number, from 1, if Status is sending.
	Attempt int `json:"attempt,omitempty"`
	// SendAt is when a scheduled notification is due.
	SendAt time.Time `json:"send_at,omitzero"`
	// Receipt is the final receipt; nil before the final state.
	Receipt *Receipt `json:"receipt,omitempty"`
	// Target is the unregistered target, if Status is unregistered or the receipt has Replaced. The app's
	// backend must delete it unless it has a registration newer than the receipt's dead_since, or
	// replace it by Replaced.
	Target *Target `json:"target,omitempty"`
	// TraceContext is that of the notification. An event with the status sending or cancelled can lack it.
	TraceContext
	// KeyHash is the SHA-256 of the app and its Idempotency-Key, BodyHash that of the request body.
	// Both are empty without a key. Feeds omit them.
	KeyHash  []byte `json:"key_hash,omitempty"`
	BodyHash []byte `json:"body_hash,omitempty"`
}
