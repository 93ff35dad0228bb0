// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
)

// randomTask returns a task with random values in some of its fields.
func randomTask(t *rapid.T) *task {
	at := time.Date(2026, 11, 22, 12, 0, 0, rapid.IntRange(0, 999_999_999).Draw(t, "ns"), time.UTC)
	flip := func(name string) bool { return rapid.Bool().Draw(t, name) }
	one := &task{
		ID: rapid.StringN(1, 40, -1).Draw(t, "id"), App: "shop", AcceptedAt: at, Reschedules: rapid.IntRange(0, 9).Draw(t, "tries"),
		AttemptsStarted: rapid.IntRange(0, 9).Draw(t, "begun"), Notification: &push.Notification{Platform: push.APNs, Target: push.Target{Token: "00"}},
	}
	if flip("keyed") {
		one.KeyHash, one.BodyHash = rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"), rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "body")
	}
	if flip("scheduled") {
		one.Due, one.Notification.SendAt = at.Add(time.Hour), at.Add(time.Hour)
	}
	if flip("tried") {
		one.Receipt = &push.Receipt{ID: one.ID, Attempts: []push.Attempt{{Endpoint: "17.188.143.98:443", Started: at}}}
	}
	return one
}

func TestTaskEncodingMatchesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := randomTask(t)
		want, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		data, err := one.encode()
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		json.HTMLEscape(&got, data)
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Fatal(diff)
		}
		back, err := decodeTask(data)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := back.encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%v: %s, and read back %s", err, data, again)
		}
	})
}

func TestEncodeRejectsInvalidJSON(t *testing.T) {
	n := &push.Notification{ID: "1", App: "shop", APNs: &push.APNsBlock{Payload: json.RawMessage(`{"aps":`)}}
	if data, err := newTask(n).encode(); err == nil {
		t.Fatalf("%s", data)
	}
}
