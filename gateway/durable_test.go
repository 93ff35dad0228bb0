// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/gateway"
	"github.com/sluice-push/sluice/mockprovider"
)

// ask makes any call about the app shop and returns its status and body.
func (h house) ask(method, path, body string, headers ...string) (int, map[string]any) {
	h.t.Helper()
	r, err := http.NewRequest(method, h.url+"/v1/apps/shop/notifications"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.key)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	var got map[string]any
	if err != nil || json.Unmarshal(text, &got) != nil {
		h.t.Fatalf("%v: %s", err, text)
	}
	return answer.StatusCode, got
}

// becomes asks until the notification is in that state.
func (h house) becomes(id any, status string) (receipt map[string]any) {
	h.t.Helper()
	until(func() bool {
		code, got := h.ask("GET", fmt.Sprint("/", id), "")
		if code != 200 {
			h.t.Fatal(code, got)
		}
		receipt = got
		return got["status"] == status
	})
	return receipt
}

func (s street) withQueue(t testing.TB, dir string) house {
	return s.open(t, head+patient+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.app("shop", s.apns(), s.fcm()))
}

func TestWhatIsAcceptedForLaterIsSentAndCanBeFound(t *testing.T) {
	s := newStreet(t)
	h := s.withQueue(t, t.TempDir())
	code, got := h.ask("POST", "", apnsTo(device), "Prefer", "respond-async")
	if code != 202 || got["id"] == nil {
		t.Fatal(code, got)
	}
	receipt := h.becomes(got["id"], "accepted")
	if attempts, _ := receipt["attempts"].([]any); len(attempts) != 1 {
		t.Error(receipt)
	}
	code, at := h.ask("POST", "", apnsTo(device))
	if code != 200 {
		t.Fatal(code, at)
	}
	h.becomes(at["id"], "accepted") // what is sent at once is in the history too
}

func TestAScheduledNotificationOutlivesItsGatewayAndCanBeCancelled(t *testing.T) {
	s, dir := newStreet(t), t.TempDir()
	h := s.withQueue(t, dir)
	later := func(in time.Duration) string {
		return strings.TrimSuffix(apnsTo(device), "}") + fmt.Sprintf(`,"send_at":%q}`, time.Now().Add(in).Format(time.RFC3339Nano))
	}
	var soon map[string]any
	for in := 1500 * time.Millisecond; soon["status"] != "scheduled" && in < time.Minute; in *= 2 { // what a slow machine takes too late is due at once
		_, soon = h.ask("POST", "", later(in), "Prefer", "respond-async")
	}
	_, far := h.ask("POST", "", later(time.Hour), "Prefer", "respond-async")
	if soon["status"] != "scheduled" || far["status"] != "scheduled" {
		t.Fatal(soon, far)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = s.withQueue(t, dir)
	h.becomes(soon["id"], "accepted")
	if code, got := h.ask("DELETE", fmt.Sprint("/", far["id"]), ""); code != 200 || got["status"] != "cancelled" {
		t.Error(code, got)
	}
	if code, got := h.ask("DELETE", fmt.Sprint("/", soon["id"]), ""); code != 409 {
		t.Error(code, got)
	}
}

func TestWhatADrainDoesNotSendTheNextGatewayDoes(t *testing.T) {
	s, dir := newStreet(t, slow(20*time.Millisecond)), t.TempDir()
	h := s.withQueue(t, dir)
	var ids []any
	for range 300 {
		code, got := h.ask("POST", "", apnsTo(device), "Prefer", "respond-async")
		if code != 202 {
			t.Fatal(code, got)
		}
		ids = append(ids, got["id"])
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = s.withQueue(t, dir)
	for _, id := range ids {
		h.becomes(id, "accepted")
	}
	if got := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}); got != len(ids) {
		t.Errorf("%d arrived, %d were accepted", got, len(ids))
	}
}

func TestASecondCallWithTheSameKeyIsTheFirst(t *testing.T) {
	s := newStreet(t)
	h := s.withQueue(t, t.TempDir())
	_, first := h.ask("POST", "", apnsTo(device), "Prefer", "respond-async", "Idempotency-Key", "k")
	h.becomes(first["id"], "accepted")
	for _, prefer := range []string{"respond-async", "wait=10"} {
		if _, again := h.ask("POST", "", apnsTo(device), "Prefer", prefer, "Idempotency-Key", "k"); again["id"] != first["id"] || again["status"] != "accepted" {
			t.Errorf("%s: %v", prefer, again)
		}
	}
}

func TestTwoGatewaysCannotHaveOneQueue(t *testing.T) {
	s, dir := newStreet(t), t.TempDir()
	h := s.withQueue(t, dir)
	h.becomes(func() any { _, got := h.ask("POST", "", apnsTo(device), "Prefer", "respond-async"); return got["id"] }(), "accepted")
	g, err := gateway.New(parse(t, head+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.app("shop", s.apns())), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another process has this folder") {
		t.Error(err)
	}
}
