// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"testing"
	"testing/synctest"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

func TestReceiptHasWarningsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrongEnvironment := refused
		wrongEnvironment.WrongEnvironment = true
		first, second := newRoute(t, scriptedService(wrongEnvironment), 2), newRoute(t, new(service), 2)
		e := &delivery.Environments{Default: push.Production, Cache: new(delivery.EnvironmentCache),
			Routes: map[push.Environment]*delivery.Route{push.Production: first, push.Sandbox: second}}
		n := toToken("unusual", 1)
		if err := e.Check(n); err != nil || len(n.Warnings) != 1 {
			t.Errorf("Check: %v, %+v", err, n.Warnings)
		}
		if r := e.Send(t.Context(), &push.Call{Notification: n}); r.Verdict != push.Accepted || len(r.Attempts) != 2 || len(r.Warnings) != 1 || r.Warnings[0].Field != "token" {
			t.Errorf("%+v", r)
		}
		strict := toToken("unusual", 2)
		strict.Strict = true
		if r := first.Send(t.Context(), &push.Call{Notification: strict}); r.Verdict != push.Refused || r.Field != "token" || len(r.Attempts) != 0 {
			t.Errorf("strict: %+v", r)
		}
		if r := second.Send(t.Context(), &push.Call{Notification: toToken("usual", 3)}); len(r.Warnings) != 0 {
			t.Errorf("%+v", r.Warnings)
		}
	})
}
