// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

func TestAwaitReturnsOnceEnoughHasCome(t *testing.T) {
	m := mockprovider.Start(t)
	pushes := mockprovider.Query{Service: mockprovider.APNs, Token: goodToken, Status: 200}
	type result struct {
		found []mockprovider.Entry
		err   error
	}
	done := make(chan result)
	go func() {
		found, err := m.Ledger().Await(t.Context(), pushes, 3)
		done <- result{found, err}
	}()
	for i := range 3 {
		select {
		case early := <-done:
			t.Fatalf("after %d pushes it returned %v", i, early)
		default:
		}
		do(t, client(t, m), push(t, m, func(r *http.Request) { r.URL.Path = "/3/device/dead0000" }))
		do(t, client(t, m), push(t, m, nil))
	}
	if got := <-done; got.err != nil || len(got.found) != 3 {
		t.Errorf("got %d entries, %v", len(got.found), got.err)
	}
	if found, err := m.Ledger().Await(t.Context(), pushes, 2); err != nil || len(found) != 3 {
		t.Errorf("what is there already: got %d entries, %v", len(found), err)
	}
}

func TestAwaitSaysWhatWasMissing(t *testing.T) {
	m := mockprovider.Start(t)
	do(t, client(t, m), push(t, m, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := m.Ledger().Await(ctx, mockprovider.Query{Service: mockprovider.APNs, Token: goodToken, Status: 200}, 2)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 of 2 entries match service=apns status=200 token=…") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(fmt.Sprint(err), goodToken) {
		t.Error("the error names the device token")
	}
}

// failing is a TB that only notes its failure.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Fatalf(format string, args ...any) { f.text = fmt.Sprintf(format, args...) }

func TestExpectFailsOnOneTooMany(t *testing.T) {
	m := mockprovider.Start(t)
	do(t, client(t, m), push(t, m, nil))
	do(t, client(t, m), push(t, m, nil))
	tb := &failing{TB: t}
	m.Ledger().Expect(tb, mockprovider.Query{Token: goodToken}, 1)
	if !strings.Contains(tb.text, "2 entries match token=…, want 1") {
		t.Errorf("got %q", tb.text)
	}
	if found := m.Ledger().Expect(t, mockprovider.Query{Token: goodToken}, 2); len(found) != 2 {
		t.Errorf("got %v", found)
	}
}

func TestTheLedgerIsAwaitedOverHTTP(t *testing.T) {
	m := mockprovider.Start(t)
	defer http.DefaultClient.CloseIdleConnections()
	get := func(query string) (int, string) {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), "GET", m.LedgerURL()+query, nil)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text)
	}
	done := make(chan string)
	go func() {
		_, text := get("?service=apns&await=1&timeout=" + time.Minute.String())
		done <- text
	}()
	do(t, client(t, m), push(t, m, nil))
	if text := <-done; !strings.Contains(text, goodToken) {
		t.Errorf("got %s", text)
	}
	for query, want := range map[string]int{"?await=2&timeout=1ms": 408, "?await=x": 400, "?timeout=1h": 400, "?awai=1": 400} {
		if status, text := get(query); status != want {
			t.Errorf("%s: got %d %s, want %d", query, status, text, want)
		}
	}
}
