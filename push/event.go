// SPDX-License-Identifier: Apache-2.0

package push

import "time"

// Event is one step of a notification's life, as history keeps it and the feeds tell it. Its JSON form is for good.
// It may name a device token, and so belongs to the app alone.
type Event struct {
	// Cursor is the event's place in the history: SSE's event id, by which a reader resumes. It is given by the history
	// and is not part of the event that is kept.
	Cursor string `json:"-"`
	// ID names the notification.
	ID  string    `json:"id"`
	App string    `json:"app"`
	At  time.Time `json:"at"`
	// Status is what the notification has become: queued or scheduled when it was taken, sending right before each
	// attempt, an end's status with its receipt.
	Status   Status   `json:"status"`
	Platform Platform `json:"platform,omitempty"`
	Lane     Lane     `json:"lane,omitempty"`
	// Attempt counts the attempts, from 1, in an event whose Status is sending.
	Attempt int `json:"attempt,omitempty"`
	// SendAt is when a scheduled one is due.
	SendAt time.Time `json:"send_at,omitzero"`
	// Receipt tells the end; nil before it.
	Receipt *Receipt `json:"receipt,omitempty"`
	// Target is who is dead, in an event whose Status is unregistered: the app's backend has to forget it, unless it has
	// a registration newer than the receipt's dead_since.
	Target *Target `json:"target,omitempty"`
	// KeyHash and BodyHash are SHA-256 of the Idempotency-Key with its app and of the body that came with it, both empty
	// without a key. Feeds leave them out.
	KeyHash  []byte `json:"key_hash,omitempty"`
	BodyHash []byte `json:"body_hash,omitempty"`
}
