// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/push"
)

// interruptAccept leaves the queue in dir as a gateway that died between the event that a notification
// is accepted and its task.
func interruptAccept(t *testing.T, dir, key, body string) (id string) {
	t.Helper()
	return interruptCall(t, dir, key, body, push.StatusQueued, false)
}

// interruptCall leaves the queue in dir as a gateway that died after the first event of a notification: one
// with a log, or one of an earlier version.
func interruptCall(t *testing.T, dir, key, body string, status push.Status, onLog bool) (id string) {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: filepath.Join(dir, "engine")})
	if err != nil {
		t.Fatal(err)
	}
	keyHash, bodyHash := sha256.Sum256([]byte("shop\x00"+key)), sha256.Sum256([]byte(body))
	id = uuid.Must(uuid.NewV7()).String()
	event := push.Event{
		ID: id, App: "shop", At: time.Now(), Status: status, Platform: push.APNs, KeyHash: keyHash[:], BodyHash: bodyHash[:],
	}
	if onLog {
		appendEvent(t, e, event)
	} else {
		publishEvent(t, e, event)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return id
}

// appendEvent appends an event to the log of an engine.
func appendEvent(t *testing.T, e *jetstream.Engine, event push.Event) {
	t.Helper()
	log, err := history.OpenLog(t.Context(), e, "")
	if err != nil {
		t.Fatal(err)
	}
	h, err := history.Open(t.Context(), history.Config{Engine: e, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	if _, err := h.Append(ctx, event); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.Join(testwait.For(t, ended, "the end of the log"), h.Close()); err != nil {
		t.Fatal(err)
	}
}

// publishEvent stores an event as a version without a log did.
func publishEvent(t *testing.T, e *jetstream.Engine, event push.Event) {
	t.Helper()
	for _, name := range append(queue.Streams(), history.Stream) {
		cfg := natsjs.StreamConfig{Name: name, Subjects: []string{name}, Retention: natsjs.WorkQueuePolicy}
		if name == history.Stream {
			cfg.Subjects, cfg.Retention = []string{"sluice.event.>"}, natsjs.LimitsPolicy
		}
		if _, err := e.Stream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	text, err := event.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.JetStream().Publish(t.Context(), "sluice.event.shop", append(text, '\n')); err != nil {
		t.Fatal(err)
	}
}

// TestInterruptedCallCanBeRepeated repeats a call with its Idempotency-Key after a crash in the middle of
// the first one. It is sent exactly once, whether the response is asynchronous or not.
func TestInterruptedCallCanBeRepeated(t *testing.T) {
	for _, prefer := range []string{"respond-async", "wait=60"} {
		t.Run(prefer, func(t *testing.T) {
			s, dir, body := newMockEnv(t), t.TempDir(), apnsNotification(deviceToken)
			interrupted := interruptAccept(t, dir, "k", body)
			h := s.startWithQueue(t, dir)
			_, first := h.request("POST", "", body, "Prefer", prefer, "Idempotency-Key", "k")
			if first["id"] == interrupted {
				t.Error("the response is that of the interrupted call, which was not stored")
			}
			h.waitStatus(first["id"], "accepted")
			if _, again := h.request("POST", "", body, "Prefer", prefer, "Idempotency-Key", "k"); again["id"] != first["id"] {
				t.Errorf("%v, want the receipt of %v", again, first["id"])
			}
			if r := h.waitStatus(interrupted, "unknown"); r["reason"] != "NOT_STORED" {
				t.Error(r)
			}
			if got := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}); got != 1 {
				t.Errorf("APNs got %d notifications", got)
			}
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			cfg := parse(t, listenConfig+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
			if report, err := gateway.Audit(t.Context(), cfg); err != nil || !report.Clean() {
				t.Errorf("%+v %v", report, err)
			}
		})
	}
}

// TestInterruptedSendIsEnded starts a gateway after one that died during a synchronous send with a key. The
// notification has ended in lookups, the feed, the webhook and the audit. A repeated call gets its receipt,
// or is sent if the body allows it.
func TestInterruptedSendIsEnded(t *testing.T) {
	for _, test := range []struct {
		onUnknown       string
		repeated, onLog bool
	}{{"never", false, false}, {"always", true, false}, {"never", false, true}, {"always", true, true}} {
		onUnknown, repeated := test.onUnknown, test.repeated
		t.Run(fmt.Sprintf("%s, with a log: %t", onUnknown, test.onLog), func(t *testing.T) {
			s, dir, receiver := newMockEnv(t), t.TempDir(), newWebhookReceiver(t)
			body := strings.TrimSuffix(apnsNotification(deviceToken), "}") + fmt.Sprintf(`,"on_unknown":%q}`, onUnknown)
			interrupted := interruptCall(t, dir, "k", body, push.StatusSending, test.onLog)
			text := s.webhookConfig(dir, receiver.block(t, "ends", ""))
			h := s.start(t, text)
			if r := h.waitStatus(interrupted, "unknown"); r["reason"] != "IN_DOUBT" {
				t.Error(r)
			}
			testwait.Until(t, func() bool { return receiver.received(interrupted) }, "the webhook receives its end")
			if e := h.endOf(interrupted); !strings.Contains(e, `"reason":"IN_DOUBT"`) {
				t.Errorf("the end in the feed is %s", e)
			}
			_, again := h.request("POST", "", body, "Idempotency-Key", "k")
			if got := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}); strings.Contains(fmt.Sprint(again), interrupted) == repeated || (got == 1) != repeated {
				t.Errorf("repeated call: %v, APNs got %d", again, got)
			}
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			if report, err := gateway.Audit(t.Context(), parse(t, text)); err != nil || !report.Clean() || len(report.Findings) > 0 {
				t.Errorf("%+v %v", report, err)
			}
		})
	}
}

// TestNotificationLostOnDiskIsReported flips a bit in the scheduled notifications while the gateway is
// stopped. The lost one ends as unknown in lookups, the feed, the webhook and the audit, and can be sent
// again with its key.
func TestNotificationLostOnDiskIsReported(t *testing.T) {
	s, dir, receiver := newMockEnv(t), t.TempDir(), newWebhookReceiver(t)
	text := s.webhookConfig(dir, receiver.block(t, "ends", ""))
	h := s.start(t, text)
	body := strings.TrimSuffix(apnsNotification(deviceToken), "}") + fmt.Sprintf(`,"send_at":%q}`, time.Now().Add(time.Hour).Format(time.RFC3339))
	const count = 7
	ids := map[any]int{}
	for i := range count {
		code, got := h.request("POST", "", body, "Prefer", "respond-async", "Idempotency-Key", fmt.Sprint(i))
		if code != 202 {
			t.Fatal(code, got)
		}
		ids[got["id"]] = i
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	blocks, err := filepath.Glob(filepath.Join(dir, "engine", "jetstream", "*", "streams", history.Stream, "msgs", "*.blk"))
	if err != nil || len(blocks) != 1 {
		t.Fatal(blocks, err)
	}
	data, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
		t.Fatal(err)
	}

	h = s.start(t, text)
	lost := ""
	testwait.Until(t, func() bool {
		for id := range ids {
			if _, got := h.request("GET", fmt.Sprint("/", id), ""); got["status"] == "unknown" && got["reason"] == "TASK_LOST" {
				lost = fmt.Sprint(id)
			}
		}
		return lost != ""
	}, "a notification is reported as lost")
	testwait.Until(t, func() bool { return receiver.received(lost) }, "the webhook receives its end")
	if e := h.endOf(lost); !strings.Contains(e, `"reason":"TASK_LOST"`) {
		t.Errorf("the end in the feed is %s", e)
	}
	for id, i := range ids {
		code, again := h.request("POST", "", body, "Prefer", "respond-async", "Idempotency-Key", fmt.Sprint(i))
		if code != 202 || (again["id"] == id) == (id == lost) || again["status"] != "scheduled" {
			t.Errorf("repeated call: %d %v", code, again)
		}
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	report, err := gateway.Audit(t.Context(), parse(t, text))
	if err != nil || report.Lost != 1 || len(report.Findings) != 1 || report.Findings[0].ID != lost || report.Clean() {
		t.Errorf("%+v %v", report, err)
	}
}

// readFeed reads the events of shop from the first one on, until read returns false.
func (h testGateway) readFeed(read func(data string) bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), testwait.Bound)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/v1/apps/shop/events?after=oldest", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+h.key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && !read(data) {
			return
		}
	}
	h.t.Fatal("the feed ended before the expected events")
}

// endOf returns the event with which a notification of shop ended.
func (h testGateway) endOf(id string) (end string) {
	h.t.Helper()
	h.readFeed(func(data string) bool {
		if strings.Contains(data, id) && strings.Contains(data, `"receipt"`) {
			end = data
		}
		return end == ""
	})
	return end
}
