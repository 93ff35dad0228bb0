// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/push"
)

// graveyard answers that every token is dead since then, but those that are said to live.
func graveyard(since time.Time, alive func(token string) bool) *service {
	return &service{script: func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
		if alive(n.Token) {
			return accepted
		}
		o := dead
		o.DeadSince = since
		return o
	}}
}

// to is a note to a token, under an ID of its own.
func to(token string, id int) *push.Notification {
	n := note(fmt.Sprint(token, id))
	n.Token = token
	return n
}

func TestADeadTokenIsSentOnceAndThenAnsweredHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since := time.Now().Add(-time.Minute)
		s := graveyard(since, func(token string) bool { return token == "alive" })
		r := house(t, s, 2)
		r.Dead = &delivery.Dead{Keep: time.Hour}
		if got := r.Send(t.Context(), to("gone", 1)); len(got.Attempts) != 1 || got.Verdict != push.Unregistered {
			t.Fatalf("%+v", got)
		}
		got := r.Send(t.Context(), to("gone", 2))
		if got.Verdict != push.Unregistered || got.Reason != "Unregistered" || !got.DeadSince.Equal(since) || !got.ForgetToken || len(got.Attempts) != 0 {
			t.Errorf("the second: %+v", got)
		}
		if got := r.Send(t.Context(), to("alive", 1)); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		other := to("gone", 3)
		other.App = "bank"
		if got := r.Send(t.Context(), other); len(got.Attempts) != 1 {
			t.Errorf("another app's token of that name: %+v", got)
		}
		time.Sleep(time.Hour)
		if got := r.Send(t.Context(), to("gone", 4)); len(got.Attempts) != 1 {
			t.Errorf("after an hour: %+v", got)
		}
	})
}

func TestATokenThatIsAcceptedAfterAllLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var revived atomic.Bool
		s := graveyard(time.Time{}, func(string) bool { return revived.Load() })
		slow := s.script
		s.script = func(ctx context.Context, n *push.Notification, i int, e string) push.Outcome {
			if n.ID == "late1" {
				time.Sleep(time.Minute)
			}
			return slow(ctx, n, i, e)
		}
		r := house(t, s, 2)
		r.Dead = new(delivery.Dead)
		ended := make(chan push.Receipt, 1)
		go func() {
			n := to("back", 1)
			n.ID = "late1"
			ended <- r.Send(t.Context(), n)
		}()
		synctest.Wait()
		r.Send(t.Context(), to("back", 2))
		revived.Store(true)
		if got := <-ended; got.Verdict != push.Accepted {
			t.Fatal(verdicts(got))
		}
		if got := r.Send(t.Context(), to("back", 3)); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
	})
}

func TestOnlySoManyDeadAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := house(t, graveyard(time.Time{}, func(string) bool { return false }), 2)
		r.Dead = &delivery.Dead{Most: 100}
		for i := range 150 {
			r.Send(t.Context(), to(fmt.Sprint("t", i), 0))
		}
		for i := range 150 {
			got := r.Send(t.Context(), to(fmt.Sprint("t", 149-i), 1))
			if remembered := len(got.Attempts) == 0; i < 100 && !remembered {
				t.Errorf("the dead number %d was forgotten", 149-i)
			}
		}
	})
}

func TestADeadWithoutASayFromTheProviderIsNotOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []push.Outcome{refused, unavailable, {Verdict: push.Unregistered, Reason: "UNREGISTERED", HTTP: 404}} {
			s := inOrder(end, end, end, end)
			r := house(t, s, 4)
			r.Dead = new(delivery.Dead)
			r.Send(t.Context(), to("a", 1))
			if got := r.Send(t.Context(), to("a", 2)); len(got.Attempts) == 0 {
				t.Errorf("after %s: answered here with %+v", end.Verdict, got)
			}
		}
	})
}
