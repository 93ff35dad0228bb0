// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// request makes a request for notifications of the app shop and returns the status and the JSON body.
func (h testGateway) request(method, path, body string, headers ...string) (int, map[string]any) {
	h.t.Helper()
	response, text := h.do(method, "/notifications"+path, body, headers...)
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		h.t.Fatalf("%v: %s", err, text)
	}
	return response.StatusCode, got
}

// do makes a request for the app shop and returns the response with its body.
func (h testGateway) do(method, path, body string, headers ...string) (*http.Response, []byte) {
	h.t.Helper()
	r, err := http.NewRequest(method, h.url+"/v1/apps/shop"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.key)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return response, text
}

// waitStatus polls until the notification has a status, and returns its receipt.
func (h testGateway) waitStatus(id any, status string) (receipt map[string]any) {
	h.t.Helper()
	testwait.Until(h.t, func() bool {
		code, got := h.request("GET", fmt.Sprint("/", id), "")
		if code != 200 {
			h.t.Fatal(code, got)
		}
		receipt = got
		return got["status"] == status
	}, "the notification is "+status)
	return receipt
}

func (s mockEnv) startWithQueue(t testing.TB, dir string) testGateway {
	return s.start(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.appBlock("shop", s.apnsBlock(), s.fcmBlock()))
}

func TestQueuedNotificationIsSentAndFound(t *testing.T) {
	s := newMockEnv(t)
	h := s.startWithQueue(t, t.TempDir())
	code, got := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
	if code != 202 || got["id"] == nil {
		t.Fatal(code, got)
	}
	receipt := h.waitStatus(got["id"], "accepted")
	if attempts, _ := receipt["attempts"].([]any); len(attempts) != 1 {
		t.Error(receipt)
	}
	code, sync := h.request("POST", "", apnsNotification(deviceToken))
	if code != 200 {
		t.Fatal(code, sync)
	}
	h.waitStatus(sync["id"], "accepted") // synchronous sends are in the history too
}

func TestScheduledNotificationSurvivesRestartAndCanBeCancelled(t *testing.T) {
	s, dir := newMockEnv(t), t.TempDir()
	h := s.startWithQueue(t, dir)
	later := func(in time.Duration) string {
		return strings.TrimSuffix(apnsNotification(deviceToken), "}") + fmt.Sprintf(`,"send_at":%q}`, time.Now().Add(in).Format(time.RFC3339Nano))
	}
	var soon map[string]any
	for in := 1500 * time.Millisecond; soon["status"] != "scheduled" && in < time.Minute; in *= 2 { // on a slow machine it may be due before it is accepted
		_, soon = h.request("POST", "", later(in), "Prefer", "respond-async")
	}
	_, far := h.request("POST", "", later(time.Hour), "Prefer", "respond-async")
	if soon["status"] != "scheduled" || far["status"] != "scheduled" {
		t.Fatal(soon, far)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = s.startWithQueue(t, dir)
	h.waitStatus(soon["id"], "accepted")
	if code, got := h.request("DELETE", fmt.Sprint("/", far["id"]), ""); code != 200 || got["status"] != "cancelled" {
		t.Error(code, got)
	}
	if code, got := h.request("DELETE", fmt.Sprint("/", soon["id"]), ""); code != 409 {
		t.Error(code, got)
	}
}

func TestQueuedNotificationsAreSentAfterRestart(t *testing.T) {
	s, dir := newMockEnv(t, slowAPNs(20*time.Millisecond)), t.TempDir()
	h := s.startWithQueue(t, dir)
	var ids []any
	for range 300 {
		code, got := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
		if code != 202 {
			t.Fatal(code, got)
		}
		ids = append(ids, got["id"])
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = s.startWithQueue(t, dir)
	for _, id := range ids {
		h.waitStatus(id, "accepted")
	}
	if got := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}); got != len(ids) {
		t.Errorf("APNs got %d notifications, want %d", got, len(ids))
	}
}

func TestIdempotencyKeyReturnsFirstReceipt(t *testing.T) {
	s := newMockEnv(t)
	h := s.startWithQueue(t, t.TempDir())
	_, first := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async", "Idempotency-Key", "k")
	h.waitStatus(first["id"], "accepted")
	for _, prefer := range []string{"respond-async", "wait=10"} {
		if _, again := h.request("POST", "", apnsNotification(deviceToken), "Prefer", prefer, "Idempotency-Key", "k"); again["id"] != first["id"] || again["status"] != "accepted" {
			t.Errorf("%s: %v", prefer, again)
		}
	}
}

func TestTwoGatewaysCannotOpenOneQueue(t *testing.T) {
	s, dir := newMockEnv(t), t.TempDir()
	h := s.startWithQueue(t, dir)
	h.waitStatus(func() any {
		_, got := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
		return got["id"]
	}(), "accepted")
	g, err := gateway.New(parse(t, listenConfig+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.appBlock("shop", s.apnsBlock())), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "directory is in use by another process") {
		t.Error(err)
	}
}

// TestInvalidNATSFiles verifies that the start fails, instead of retrying for a minute.
func TestInvalidNATSFiles(t *testing.T) {
	s := newMockEnv(t)
	cfg := parse(t, listenConfig+"queue: {nats: {url: 'nats://127.0.0.1:1', credentials_file: missing.creds}}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	if _, err := gateway.New(cfg, nil); err == nil || !strings.Contains(err.Error(), "config: queue.nats.credentials_file: open ") {
		t.Error(err)
	}
	if !slices.Contains(gateway.ReferencedFiles(cfg), string(cfg.Queue.NATS.CredentialsFile)) {
		t.Error("the mode of the file is not checked")
	}
}
