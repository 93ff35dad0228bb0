// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

func TestTableSelectsRouteByApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop, bank := &service{}, &service{}
		table := delivery.Table{
			"shop": {push.APNs: newRoute(t, shop, 1), push.FCM: newRoute(t, &service{}, 1)},
			"bank": {push.APNs: newRoute(t, bank, 1)},
		}
		if got := table.Sender(newNotification("a")).Send(t.Context(), &push.Call{Notification: newNotification("a")}); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		if len(shop.visits) != 1 || len(bank.visits) != 0 {
			t.Errorf("shop got %d notifications, bank %d", len(shop.visits), len(bank.visits))
		}
		if err := table.Sender(newNotification("b")).Check(newNotification("b")); err != nil {
			t.Error(err)
		}
	})
}

func TestTableCreatesLazySenderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		created, route := 0, newRoute(t, &service{}, 1)
		lazy := delivery.Lazy(sync.OnceValue(func() delivery.Sender { created++; return route }))
		table := delivery.Table{"shop": {push.APNs: lazy}}
		if created != 0 {
			t.Error("created before its use")
		}
		n := newNotification("a")
		for range 2 {
			if table.Sender(n) != delivery.Sender(route) {
				t.Error("the table does not return the Sender that was created")
			}
		}
		lazy.SendAll(t.Context(), []*push.Call{{Notification: n}}, func([]*push.Call) {})
		if got := lazy.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Accepted || lazy.Check(n) != nil || created != 1 {
			t.Error(verdicts(got), created)
		}
	})
}

func TestTableRefusesUnknownPlatform(t *testing.T) {
	table := delivery.Table{"shop": {push.FCM: nil, push.APNs: nil}}
	for _, c := range []struct {
		app    string
		detail string
	}{
		{"shop", `platform: must be configured for this app: "apns", "fcm"`},
		{"unknown", "platform: must be configured for this app, which has no platforms"},
	} {
		n := newNotification("a")
		n.App, n.Platform = c.app, push.WebPush
		got := table.Sender(n).Send(t.Context(), &push.Call{Notification: n})
		if got.ID != "a" || got.Verdict != push.Refused || got.Field != "platform" || got.Detail != c.detail {
			t.Errorf("receipt %+v", got)
		}
		if _, ok := errors.AsType[*push.FieldError](table.Sender(n).Check(n)); !ok {
			t.Error("Check returned no *push.FieldError")
		}
	}
}
