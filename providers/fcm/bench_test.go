// SPDX-License-Identifier: Apache-2.0

package fcm_test

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
	p, n := newProvider(b), typicalNotification()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Translate(n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTranslateRaw(b *testing.B) {
	p, n := newProvider(b), typicalNotification()
	withMessage(`{"android":{"notification":{"channel_id":"parcels","color":"#ff8800"}},"fcm_options":{"analytics_label":"parcels"}}`)(n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Translate(n); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTranslateAndSend measures the total cost of this package per notification.
func BenchmarkTranslateAndSend(b *testing.B) {
	p, n, conn := newProvider(b), typicalNotification(), respond(200, `{"name":"projects/demo-project/messages/0:1671819112768910%fbb99cf6fbb99cf6"}`)
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
	p, n := newProvider(b), typicalNotification()
	conn := respond(404, errorResponse(404, "NOT_FOUND", "Requested entity was not found.", fcmError("UNREGISTERED")))
	r := translate(b, p, n)
	b.ReportAllocs()
	for b.Loop() {
		if o := providertest.Send(b.Context(), p, conn, n, r); o.Verdict != push.Unregistered {
			b.Fatal(o)
		}
	}
}
