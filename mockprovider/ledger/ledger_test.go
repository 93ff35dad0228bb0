// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider/ledger"
)

var (
	push   = &ledger.Endpoint{Service: "apns", Addr: "127.0.0.1:1", Notifications: true}
	push2  = &ledger.Endpoint{Service: "apns", Addr: "127.0.0.1:2", Notifications: true}
	manage = &ledger.Endpoint{Service: "apns_manage", Addr: "127.0.0.1:3"}
)

// accepted returns a record of an accepted notification.
func accepted(e *ledger.Endpoint, token, id string) ledger.Record {
	return ledger.Record{Endpoint: e, Conn: 1, Token: token, ID: id, Status: 200, Accepted: true, Answered: true}
}

// rejected returns a record of a rejected notification.
func rejected(e *ledger.Endpoint, token string, status uint16, reason string) ledger.Record {
	return ledger.Record{Endpoint: e, Conn: 1, Token: token, Status: status, Reason: reason, Answered: true}
}

func TestQuerySelectsEntries(t *testing.T) {
	l := ledger.New(100)
	l.Add(accepted(push, "00fc", "id-1"))
	l.Add(rejected(push2, "dead01", 400, "BadDeviceToken"))
	l.Add(accepted(manage, "channel", ""))
	yes, no := true, false
	for _, c := range []struct {
		q    ledger.Query
		want int
	}{
		{ledger.Query{}, 3}, {ledger.Query{Service: "apns"}, 2}, {ledger.Query{Service: "fcm"}, 0}, {ledger.Query{Endpoint: push2.Addr}, 1},
		{ledger.Query{Token: "00fc"}, 1}, {ledger.Query{Token: "00"}, 0}, {ledger.Query{Token: "dead*"}, 1}, {ledger.Query{Token: "*"}, 3},
		{ledger.Query{Token: "00FC"}, 1}, {ledger.Query{Token: "DEAD*"}, 1}, {ledger.Query{Token: "Channel"}, 0},
		{ledger.Query{ID: "ID-1"}, 1}, {ledger.Query{Status: 400}, 1}, {ledger.Query{Reason: "BadDeviceToken"}, 1},
		{ledger.Query{Accepted: &yes}, 2}, {ledger.Query{Accepted: &no}, 1}, {ledger.Query{After: 2}, 1}, {ledger.Query{Service: "apns", Token: "channel"}, 0},
	} {
		if got := l.Entries(c.q); len(got) != c.want {
			t.Errorf("%+v: got %d entries, want %d", c.q, len(got), c.want)
		}
		if got := l.Count(c.q); got != c.want {
			t.Errorf("%+v: Count = %d, want %d", c.q, got, c.want)
		}
	}
	if newest := l.Entries(ledger.Query{Limit: 2}); len(newest) != 2 || newest[0].Seq != 2 || newest[1].Seq != 3 {
		t.Errorf("with a limit: got %+v", newest)
	}
}

func TestAcceptedNotificationsAreCounted(t *testing.T) {
	l := ledger.New(100)
	l.Add(accepted(push, "00fc", "ID-1"))
	l.Add(accepted(push2, "00fc", "id-1"))
	l.Add(rejected(push, "00fc", 500, "InternalServerError"))
	l.Add(accepted(manage, "channel", "id-2"))
	if got := l.AcceptedByID(); len(got) != 1 || got["id-1"] != 2 {
		t.Errorf("by ID: got %v", got)
	}
	if got := l.AcceptedByToken(); len(got) != 1 || got["00fc"] != 2 {
		t.Errorf("by token: got %v", got)
	}
}

func TestContentIsKept(t *testing.T) {
	l := ledger.New(100)
	r := accepted(push, "00fc", "")
	r.Content = &ledger.Content{Header: [][2]string{{"a", "b"}}, Body: "body", Plaintext: "text", Undecryptable: "reason"}
	l.Add(r)
	got := l.Entries(ledger.Query{})[0]
	if fmt.Sprint(got.Header) != "[[a b]]" || got.Body != "body" || got.Plaintext != "text" || got.Undecryptable != "reason" {
		t.Errorf("got %+v", got)
	}
}

func TestSummaryCountsDroppedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger.New(3)
		l.ConnOpened(push)
		l.ConnOpened(push)
		l.ConnClosed(push)
		l.StreamsInFlight(push, 2)
		l.StreamsInFlight(push, 1)
		l.StreamRefused(push, true)
		l.StreamRefused(push, false)
		for range 5 {
			l.Add(accepted(push, "00fc", ""))
		}
		l.Add(rejected(push2, "00fc", 429, "TooManyRequests"))
		l.Add(ledger.Record{Endpoint: push2})
		s := l.Summary()
		apns := s.Services["apns"]
		if s.Entries != 7 || s.Kept != 3 || apns.Requests != 7 || apns.Accepted != 5 || apns.Unanswered != 1 || apns.Unprocessed != 1 ||
			apns.Reasons["TooManyRequests"] != 1 || apns.Dials != 2 || apns.Open != 1 || apns.Refused != 2 || apns.Violations != 1 || apns.MaxInFlight != 2 {
			t.Errorf("summary %+v", s)
		}
		if seconds := apns.Endpoints[push.Addr].PerSecond; len(seconds) != 1 || seconds[0].Requests != 5 || seconds[0].Accepted != 5 {
			t.Errorf("seconds of the first endpoint: %+v", seconds)
		}
		if seconds := apns.Endpoints[push2.Addr].PerSecond; len(seconds) != 1 || seconds[0].Requests != 2 || seconds[0].Throttled != 1 {
			t.Errorf("seconds of the second endpoint: %+v", seconds)
		}
		entries := l.Entries(ledger.Query{})
		if len(entries) != 3 || entries[0].Seq != 5 || entries[2].Seq != 7 {
			t.Errorf("entries %+v", entries)
		}
	})
}

func TestQuotaChecksAreCountedByScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger.New(3)
		for _, c := range []struct{ admitted, early bool }{{true, false}, {true, false}, {false, false}, {false, true}} {
			l.AddQuotaCheck("fcm", "project", c.admitted, c.early)
		}
		got := l.Summary().Services["fcm"].Scopes["project"]
		if got.Admitted != 2 || got.Refused != 2 || got.Early != 1 || len(got.PerSecond) != 1 || got.PerSecond[0].Requests != 4 || got.PerSecond[0].Accepted != 2 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestClearKeepsOpenConnections(t *testing.T) {
	l := ledger.New(3)
	l.ConnOpened(push)
	l.Add(accepted(push, "00fc", ""))
	l.AddQuotaCheck("apns", "project", true, false)
	l.Clear()
	s := l.Summary()
	if apns := s.Services["apns"]; s.Entries != 0 || s.Kept != 0 || apns.Requests != 0 || apns.Dials != 0 || apns.Open != 1 || apns.Scopes != nil {
		t.Errorf("summary %+v", s)
	}
	if got := l.Entries(ledger.Query{}); len(got) != 0 {
		t.Errorf("entries %+v", got)
	}
}

func TestAwaitReturnsWhenEnoughEntriesMatch(t *testing.T) {
	l := ledger.New(100)
	pushes := ledger.Query{Service: "apns", Token: "00fc", Status: 200}
	type result struct {
		found []ledger.Entry
		err   error
	}
	done := make(chan result)
	go func() {
		found, err := l.Await(t.Context(), pushes, 3)
		done <- result{found, err}
	}()
	for i := range 3 {
		select {
		case early := <-done:
			t.Fatalf("after %d matching entries: got %v", i, early)
		default:
		}
		l.Add(rejected(push, "dead", 410, "Unregistered"))
		l.Add(accepted(push, "00fc", ""))
	}
	if got := testwait.For(t, done, "the end of Await"); got.err != nil || len(got.found) != 3 {
		t.Errorf("got %d entries, %v", len(got.found), got.err)
	}
	if found, err := l.Await(t.Context(), pushes, 2); err != nil || len(found) != 3 {
		t.Errorf("with enough entries: got %d entries, %v", len(found), err)
	}
}

func TestAwaitCountsAnewAfterClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger.New(100)
		done := make(chan int)
		go func() {
			found, _ := l.Await(t.Context(), ledger.Query{}, 2)
			done <- len(found)
		}()
		synctest.Wait()
		l.Add(accepted(push, "00fc", ""))
		l.Clear()
		l.Add(accepted(push, "00fc", ""))
		synctest.Wait()
		select {
		case n := <-done:
			t.Fatalf("returned %d entries", n)
		default:
		}
		l.Add(accepted(push, "00fc", ""))
		if n := <-done; n != 2 {
			t.Errorf("got %d entries", n)
		}
	})
}

func TestAwaitErrorSaysWhatIsMissing(t *testing.T) {
	l := ledger.New(100)
	l.Add(accepted(push, "00fc", ""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Await(ctx, ledger.Query{Service: "apns", Token: "00fc", Status: 200}, 2)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 of 2 entries match service=apns status=200 token=…") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "00fc") {
		t.Error("the error contains the device token")
	}
}

// failure is a TB that keeps the text of a failure.
type failure struct {
	testing.TB
	text string
}

func (f *failure) Fatalf(format string, args ...any) { f.text = fmt.Sprintf(format, args...) }

func TestExpectFailsOnTooManyEntries(t *testing.T) {
	l := ledger.New(100)
	l.Add(accepted(push, "00fc", ""))
	l.Add(accepted(push, "00fc", ""))
	f := &failure{TB: t}
	l.Expect(f, ledger.Query{Token: "00fc"}, 1)
	if !strings.Contains(f.text, "2 entries match token=…, want 1") {
		t.Errorf("got %q", f.text)
	}
	if found := l.Expect(t, ledger.Query{Token: "00fc"}, 2); len(found) != 2 {
		t.Errorf("got %v", found)
	}
}
