// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/internal/testwait"
)

// countFiles returns how often each text is in the files of a folder.
func countFiles(t *testing.T, dir string, texts map[string][]byte) map[string]int {
	t.Helper()
	counts := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		for name, text := range texts {
			counts[name] += bytes.Count(content, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// TestStoredDataIsEncrypted uses everything that stores data, and then looks for what the sender has given in
// all files. Without encryption it finds all of it.
func TestStoredDataIsEncrypted(t *testing.T) {
	for name, encrypted := range map[string]bool{"with keys": true, "in clear": false} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(jetstreamtest.EncryptionEnv, "")
			s, dir, receiver := newMockEnv(t), t.TempDir(), newWebhookReceiver(t)
			receiver.failing.Store(true)
			cfg := parse(t, s.webhookConfig(dir, receiver.block(t, "crm", ", events: [accepted, unregistered]")))
			if encrypted {
				cfg.Queue.Encryption.KeyFiles = []config.File{writeKey(t, keyring.NewKey().Text())}
			}
			h := s.startParsed(t, cfg, nil)
			dead := "dead0000" + deviceToken[8:]
			body := func(token string) string {
				return strings.Replace(apnsNotificationWith(token, `,"tags":["order:4711/blue"],"data":{"iban":"DE02120300000000202051"},"apns":{"payload":{"internal":"payload-secret"}}`), `"x"`, `"Your parcel"`, 1)
			}
			want := map[any]string{}
			send := func(body, status string, headers ...string) (id any) {
				t.Helper()
				code, got := h.request("POST", "", body, append(headers, "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Tracestate", "vendor=opaque")...)
				if code >= 300 {
					t.Fatal(code, got)
				}
				want[got["id"]] = status
				return got["id"]
			}
			send(body(deviceToken), "accepted")
			send(body(dead), "unregistered")
			first := send(body(deviceToken), "accepted", "Idempotency-Key", "key-4711")
			send(body(deviceToken), "accepted", "Prefer", "respond-async")
			send(body(dead), "unregistered", "Prefer", "respond-async", "Idempotency-Key", "key-4712")
			cancelled := send(strings.Replace(body(deviceToken), "{", `{"send_at":"+1h",`, 1), "cancelled", "Prefer", "respond-async")
			if code, got := h.request("DELETE", fmt.Sprint("/", cancelled), ""); code != 200 {
				t.Error(code, got)
			}
			scheduled := send(strings.Replace(body(deviceToken), "{", `{"send_at":"+1h",`, 1), "scheduled", "Prefer", "respond-async")
			check := func(h testGateway) {
				t.Helper()
				for id, status := range want {
					h.waitStatus(id, status)
				}
				if code, got := h.request("POST", "", body(deviceToken), "Idempotency-Key", "key-4711"); code != 200 || got["id"] != first {
					t.Errorf("replay: %d %v", code, got)
				}
				if code, got := h.request("GET", "?tag=order:4711/blue", ""); code != 200 || len(got["notifications"].([]any)) != len(want) {
					t.Errorf("search: %d %v", code, got)
				}
				if ends := h.countEnds("?tag=order:4711/blue"); ends["total"] != len(want)-1 || ends["accepted apns"] != 3 {
					t.Errorf("statistics: %v", ends)
				}
				unregistered := 0
				h.readFeed(func(data string) bool {
					if strings.Contains(data, dead) {
						unregistered++
					}
					return unregistered < 2
				})
				if report := h.audit(); !report.Clean() || report.Waiting != 1 || int(report.Notifications) != len(want) {
					t.Errorf("audit: %+v", report)
				}
			}
			check(h)
			status := h.gw.Status().Queue.Encryption
			if encrypted != (status != nil && len(status.Needed) == 1 && status.Needed[0].Key == status.Key && status.Needed[0].Messages > 0) {
				t.Errorf("status: %+v", status)
			}
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil { // it is made again from the log
				t.Fatal(err)
			}
			receiver.failing.Store(false)
			h = s.startParsed(t, cfg, nil)
			check(h)
			for id, status := range want {
				if status == "accepted" || status == "unregistered" {
					testwait.Until(t, func() bool { return receiver.received(id) }, "the webhook has the event")
				}
			}
			if code, got := h.request("DELETE", fmt.Sprint("/", scheduled), ""); code != 200 {
				t.Error(code, got)
			}
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			if report, err := gateway.Audit(t.Context(), cfg); err != nil || !report.Clean() {
				t.Errorf("%+v %v", report, err)
			}
			binaryToken, _ := hex.DecodeString(deviceToken)
			traceID, _ := hex.DecodeString("4bf92f3577b34da6a3ce929d0e0e4736")
			for name, count := range countFiles(t, dir, map[string][]byte{
				"token": binaryToken, "unregistered token": []byte(dead), "title": []byte("Your parcel"), "tag": []byte("order:4711/blue"), "data": []byte("DE02120300000000202051"),
				"payload": []byte("payload-secret"), "trace": traceID, "trace state": []byte("vendor=opaque"),
			}) {
				if encrypted != (count == 0) {
					t.Errorf("%s is in the files %d times", name, count)
				}
			}
		})
	}
}

// audit returns the report of GET /audit.
func (h testGateway) audit() (report audit.Report) {
	h.t.Helper()
	response, err := http.Get(h.adminURL + gateway.AuditPath)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
		h.t.Fatal(response.Status, err)
	}
	return report
}

// TestEncryptionKeysAreRotated switches encryption on, rotates the key and switches it off, with reloads, and
// restarts with each set of keys. A key that is needed cannot be removed, and everything stays readable.
func TestEncryptionKeysAreRotated(t *testing.T) {
	t.Setenv(jetstreamtest.EncryptionEnv, "")
	s, dir := newMockEnv(t), t.TempDir()
	first, second := keyring.NewKey(), keyring.NewKey()
	files := map[*keyring.Key]config.File{first: writeKey(t, first.Text()), second: writeKey(t, second.Text())}
	configOf := func(enabled bool, keys ...*keyring.Key) *config.Config {
		cfg := parse(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
		cfg.Queue.Encryption.Enabled = enabled
		for _, key := range keys {
			cfg.Queue.Encryption.KeyFiles = append(cfg.Queue.Encryption.KeyFiles, files[key])
		}
		return cfg
	}
	h := s.startParsed(t, configOf(true), nil)
	var ids []any
	send := func() {
		t.Helper()
		code, got := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
		if code != 202 {
			t.Fatal(code, got)
		}
		ids = append(ids, got["id"])
		for _, id := range ids {
			h.waitStatus(id, "accepted")
		}
	}
	send()
	for _, step := range []struct {
		cfg     *config.Config
		refused string // by a reload, and by a start unless it says that the key encrypts
		needed  int
	}{
		{cfg: configOf(true, first), needed: 1},
		{cfg: configOf(true), refused: "must keep the key " + first.ID().String() + ", which encrypts now"},
		{cfg: configOf(true, second), refused: "must keep the key " + first.ID().String() + ", which encrypts now"},
		{cfg: configOf(true, second, first), needed: 2},
		{cfg: configOf(true, second), refused: "the key " + first.ID().String() + " is missing (the files have " + second.ID().String()},
		{cfg: configOf(false, first, second), needed: 2},
		{cfg: configOf(false), refused: "is missing (the files have no key"},
	} {
		changes, err := h.gw.Reload(step.cfg)
		if step.refused != "" {
			if err == nil || !strings.Contains(err.Error(), "config: queue.encryption.key_files") || !strings.Contains(err.Error(), step.refused) {
				t.Errorf("%q: %v, want %s", changes, err, step.refused)
			}
			send()
			continue
		}
		if err != nil || !strings.Contains(strings.Join(changes, "\n"), "queue.encryption: ") {
			t.Fatalf("%q, %v", changes, err)
		}
		send()
		if status := h.gw.Status().Queue.Encryption; status == nil || len(status.Needed) != step.needed {
			t.Errorf("status %+v, want %d keys", status, step.needed)
		}
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h = s.startParsed(t, step.cfg, nil)
		send()
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	for key, cfg := range map[string]*config.Config{"": configOf(true), first.ID().String(): configOf(true, second)} {
		missing := "config: queue.encryption.key_files lacks a key: "
		g, err := gateway.New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), key) {
			t.Error(err)
		}
		if _, err := gateway.Audit(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), key) {
			t.Error(err)
		}
	}
	h = s.startParsed(t, configOf(true, first, second), nil)
	send()
}

// TestGatewayLacksKeyOfCluster encrypts with a key that the other gateway of the cluster does not have, which
// is the wrong order. The other one stops serving its queue and says why, what it has accepted is sent by the
// first one, and it does not start again before it has the key. Nothing is lost.
func TestGatewayLacksKeyOfCluster(t *testing.T) {
	t.Setenv(jetstreamtest.EncryptionEnv, "")
	s, url := newMockEnv(t), jetstreamtest.StartServer(t)
	first, second := keyring.NewKey(), keyring.NewKey()
	files := map[*keyring.Key]config.File{first: writeKey(t, first.Text()), second: writeKey(t, second.Text())}
	configOf := func(keys ...*keyring.Key) *config.Config {
		cfg := parse(t, listenConfig+slowTimeouts+fmt.Sprintf("queue: {nats: {url: '%s', replicas: 1}}\n", url)+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
		for _, key := range keys {
			cfg.Queue.Encryption.KeyFiles = append(cfg.Queue.Encryption.KeyFiles, files[key])
		}
		return cfg
	}
	isExplained := func(text string) bool {
		return strings.Contains(text, "queue.encryption.key_files lacks a key: ") && strings.Contains(text, "the key "+second.ID().String()+" is missing (the files have "+first.ID().String())
	}
	early, late := s.startParsed(t, configOf(first), nil), s.startFailing(t, configOf(first), nil)
	var ids []any
	send := func(h testGateway, more string) {
		t.Helper()
		code, got := h.request("POST", "", apnsNotificationWith(deviceToken, more), "Prefer", "respond-async")
		if code != 202 {
			t.Fatal(code, got)
		}
		ids = append(ids, got["id"])
	}
	send(late, `,"send_at":"+2s"`)
	if _, err := early.gw.Reload(configOf(second, first)); err != nil {
		t.Fatal(err)
	}
	send(early, "")
	testwait.Until(t, func() bool { return !late.gw.Status().Queue.Writable }, "the other gateway has closed its queue")
	if reason := late.gw.Status().Queue.Reason; !isExplained(reason) {
		t.Error(reason)
	}
	if code, got := late.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async"); code != 503 {
		t.Error(code, got)
	}
	if code, text := late.get(late.adminURL + "/readyz"); code != 503 || !isExplained(text) {
		t.Error(code, text)
	}
	for _, id := range ids {
		early.waitStatus(id, "accepted")
	}
	if err := late.stop(); err == nil || !isExplained(err.Error()) {
		t.Error(err)
	}
	again, err := gateway.New(configOf(first), nil)
	if err != nil {
		t.Fatal(err)
	}
	if found := runChecks(t, again); !strings.Contains(found, "the key "+second.ID().String()+" is missing") {
		t.Errorf("check: %s", found)
	}
	if err := again.Run(t.Context()); err == nil || !isExplained(err.Error()) {
		t.Error(err)
	}
	late = s.startParsed(t, configOf(first, second), nil)
	send(late, "")
	for _, id := range ids {
		early.waitStatus(id, "accepted")
		late.waitStatus(id, "accepted")
	}
	if e := late.gw.Status().Queue.Encryption; e.Key != first.ID().String() || !slices.Equal(e.Keys, []string{e.Key, second.ID().String()}) {
		t.Errorf("%+v", e)
	}
	if report := late.audit(); !report.Clean() || int(report.Notifications) != len(ids) {
		t.Errorf("audit: %+v", report)
	}
}

func TestInvalidEncryptionKeysAreRefused(t *testing.T) {
	s := newMockEnv(t)
	key := keyring.NewKey().Text()
	good := writeKey(t, key)
	for name, c := range map[string]struct {
		files []config.File
		want  string
	}{
		"missing":   {[]config.File{good, "/nowhere/sluice.key"}, `config: queue.encryption.key_files[1]: "/nowhere/sluice.key": no such file`},
		"short":     {[]config.File{writeKey(t, "QUJD")}, "must be 32 random bytes in base64, as gateway key encryption prints them"},
		"empty":     {[]config.File{writeKey(t, "")}, "must be 32 random bytes in base64"},
		"same":      {[]config.File{good, writeKey(t, key)}, "has the same key as key_files[0]"},
		"two lines": {[]config.File{writeKey(t, key+key)}, "must be 32 random bytes in base64"},
	} {
		cfg := parse(t, listenConfig+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
		cfg.Queue.Encryption.KeyFiles = c.files
		_, err := gateway.New(cfg, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "queue.encryption.key_files[") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), strings.Fields(key)[4]) {
			t.Errorf("%s: the error has the key", name)
		}
	}
}
