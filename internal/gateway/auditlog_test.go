// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/testwait"
)

// auditRecord is a record of the audit log as clients see it.
type auditRecord struct {
	Action, Result, Caller, Kind, App, Address, Subject, Gateway, At string
	RequestID                                                        string `json:"request_id"`
	Count                                                            int
	Details                                                          []string
}

// auditLog returns all records, newest first, in pages of this size.
func (h testGateway) auditLog(t *testing.T, key string, limit int) (records []auditRecord) {
	t.Helper()
	for path := fmt.Sprintf("/v1/audit?limit=%d", limit); ; {
		code, text := h.getWithKey(path, key)
		var page struct {
			Records []auditRecord
			Next    string
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil || code != 200 {
			t.Fatalf("%d %s", code, text)
		}
		records = append(records, page.Records...)
		if page.Next == "" {
			return records
		}
		path = fmt.Sprintf("/v1/audit?limit=%d&before=%s", limit, page.Next)
	}
}

// follow reloads the configurations one after the other, as a change of the file does.
func (h testGateway) follow(texts ...string) {
	h.t.Helper()
	changed := make(chan struct{}, len(texts))
	for range texts {
		changed <- struct{}{}
	}
	close(changed)
	h.gw.Follow(changed, func() (*config.Config, error) {
		text := texts[0]
		texts = texts[1:]
		return parse(h.t, text), nil
	}, func(*config.Config) {})
}

// TestAuditLog does one action of each kind, and reads the records from the stream, also after a restart.
func TestAuditLog(t *testing.T) {
	s, dir := newMockEnv(t), t.TempDir()
	admin, adminHash := identity.NewKey()
	text := func(more string) string {
		return listenConfig + fmt.Sprintf("queue: {dir: %q}\naudit_log: {enabled: true, sends: true}\nauth: {keys: [{name: ops, hash: %q, scopes: [admin]}]}\n%sapps:\n", dir, adminHash, more) +
			s.appBlock("shop", s.fcmBlock())
	}
	h := s.start(t, text(""))
	scheduled := `{"platform":"fcm","token":"audit-canary-target","title":"audit-canary-text","send_at":"+1h"}`
	code, receipt := h.request("POST", "", scheduled, "Prefer", "respond-async")
	if code != 202 {
		t.Fatal(code, receipt)
	}
	id := fmt.Sprint(receipt["id"])
	if code, got := h.request("DELETE", "/"+id, ""); code != 200 {
		t.Fatal(code, got)
	}
	for _, wrong := range []string{"slk_wrong_key", "slk_other_key", admin + "x"} {
		if code, _ := h.getWithKey("/v1/status", wrong); code != 401 {
			t.Error(code)
		}
	}
	if code, _ := h.getWithKey("/v1/apps/bank/events", s.key); code != 403 {
		t.Error(code)
	}
	if code, _ := h.getWithKey("/v1/audit", s.key); code != 403 {
		t.Error(code)
	}
	if code, _ := h.getWithKey("/v1/status", admin); code != 200 {
		t.Error(code)
	}
	if code, _ := h.get(h.adminURL + "/debug/pprof/cmdline"); code != 200 {
		t.Error(code)
	}
	for _, key := range []string{"slk_wrong_key", admin} {
		response, err := http.PostForm(h.adminURL+"/console/sign-in", url.Values{"key": {key}})
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	h.follow(text("zone: x\n"), text("drain: {grace: 29s}\n"))
	want := []string{
		"gateway.start ok  ", "send ok test shop", "notification.cancel ok test shop", "request.refused unknown_key  ", "request.refused wrong_app test ", "request.refused missing_scope test ",
		"admin.request ok ops ", "admin.request ok  ", "console.sign_in unknown_key  ", "console.sign_in ok ops ", "config.reload config: zone", "config.reload ok  ",
	}
	var records []auditRecord
	testwait.Until(t, func() bool {
		records = h.auditLog(t, admin, 1000)
		return slices.ContainsFunc(records, func(r auditRecord) bool { return r.Action == "config.reload" && r.Result == "ok" })
	}, "the last record is stored")
	slices.Reverse(records)
	records = slices.DeleteFunc(records, func(r auditRecord) bool { return r.Action == "audit.read" })
	var got []string
	for _, r := range records {
		got = append(got, fmt.Sprintf("%s %s %s %s", r.Action, r.Result, r.Caller, r.App))
		if r.At == "" || r.Gateway == "" {
			t.Errorf("%+v", r)
		}
	}
	for i, w := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], strings.TrimRight(w, " ")) {
			t.Errorf("record %d: want %q in\n%s", i, w, strings.Join(got, "\n"))
			break
		}
	}
	if cancel := records[2]; cancel.Subject != id || cancel.Kind != "key" || cancel.Address != "127.0.0.1" || cancel.RequestID == "" {
		t.Errorf("%+v", cancel)
	}
	if send := records[1]; send.Count != 1 {
		t.Errorf("%+v", send)
	}
	if _, text := h.getWithKey("/v1/audit?limit=1000", admin); strings.Contains(text, "audit-canary") || strings.Contains(text, s.key) || strings.Contains(text, "slk_") || strings.Contains(text, "sha256:") {
		t.Error("the audit log contains a secret, a target or a text")
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = s.start(t, text(""))
	counts := map[string]int{}
	testwait.Until(t, func() bool {
		clear(counts)
		for _, r := range h.auditLog(t, admin, 50) {
			counts[r.Action]++
		}
		return counts["gateway.start"] == 2
	}, "the start is recorded")
	if counts["gateway.stop"] != 1 || counts["notification.cancel"] != 1 || counts["config.reload"] != 2 {
		t.Errorf("after the restart: %v", counts)
	}
	for path, want := range map[string]string{"/v1/audit?limit=0": "from 1 to 1000", "/v1/audit?before=x": "value of next"} {
		if code, text := h.getWithKey(path, admin); code != 400 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// TestAuditLogWithoutQueue checks that the records are lines of the log.
func TestAuditLogWithoutQueue(t *testing.T) {
	s, d := newMockEnv(t), newLeakDetector()
	d.addEnvSecrets(t, s)
	admin, hash := identity.NewKey()
	d.secrets["the key of an administrator"] = admin
	h := s.startLogging(t, listenConfig+fmt.Sprintf("audit_log: {enabled: true}\nauth: {keys: [{name: ops, hash: %q, scopes: [admin]}]}\napps:\n", hash)+s.appBlock("shop", s.fcmBlock()), d.logger())
	if code, _ := h.post("shop", fcmNotification); code != 200 {
		t.Error(code)
	}
	if code, _ := h.getWithKey("/v1/apps/bank/events", s.key); code != 403 {
		t.Error(code)
	}
	if code, text := h.getWithKey("/v1/audit", admin); code != 501 || !strings.Contains(text, "needs-queue") {
		t.Errorf("%d %s", code, text)
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		`"msg":"audit","action":"gateway.start","result":"ok"`, `"msg":"audit","action":"request.refused","result":"wrong_app","caller":"test","kind":"key"`,
		`"msg":"audit","action":"audit.read","result":"needs-queue","caller":"ops"`, `"msg":"audit","action":"gateway.stop"`,
	} {
		if !strings.Contains(d.text(), want) {
			t.Errorf("no line %s in\n%s", want, d.text())
		}
	}
	if strings.Contains(d.text(), `"action":"send"`) {
		t.Error("a send is recorded although audit_log.sends is off")
	}
	d.checkLeaks(t)
}
