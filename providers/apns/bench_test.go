// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
)

// typicalNotification returns a notification with commonly used fields.
func typicalNotification() *push.Notification {
	ttl := push.Duration(time.Hour)
	return newNotification(func(n *push.Notification) {
		n.Title, n.Body, n.Sound = "Your parcel is here 📦", "Pick it up at the corner shop until eight o'clock.", "default"
		n.Data = map[string]string{"order": "1234567", "screen": "orders"}
		n.Priority, n.TTL, n.CollapseKey = push.PriorityHigh, &ttl, "order-1234567"
	})
}

func BenchmarkTranslate(b *testing.B) {
	p, n := newKeyProvider(b), typicalNotification()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Translate(n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTranslateRaw(b *testing.B) {
	p, n := newKeyProvider(b), typicalNotification()
	withPayload(string(translate(b, p, n).Body))(n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Translate(n); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTranslateAndSend measures the total cost of this package per notification.
func BenchmarkTranslateAndSend(b *testing.B) {
	p, n, conn := newKeyProvider(b), typicalNotification(), respond(200, "")
	b.ReportAllocs()
	for b.Loop() {
		r, err := p.Translate(n)
		if err != nil {
			b.Fatal(err)
		}
		if o := providertest.Send(b.Context(), p, conn, n, r); o.Verdict != push.Accepted {
			b.Fatal(o)
		}
	}
}

func BenchmarkSendToUnregisteredToken(b *testing.B) {
	p, n, conn := newKeyProvider(b), typicalNotification(), respond(410, `{"reason":"Unregistered","timestamp":1454948015990}`)
	r := translate(b, p, n)
	b.ReportAllocs()
	for b.Loop() {
		if o := providertest.Send(b.Context(), p, conn, n, r); o.Verdict != push.Unregistered {
			b.Fatal(o)
		}
	}
}
