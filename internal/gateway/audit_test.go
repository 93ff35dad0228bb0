// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/jetstream"
)

func TestAuditIsServedByTheProcessThatHoldsTheFolder(t *testing.T) {
	s, dir := newMockEnv(t), t.TempDir()
	h := s.startWithQueue(t, dir)
	var ids []any
	for range 20 {
		_, got := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async")
		ids = append(ids, got["id"])
	}
	for _, id := range ids {
		h.waitStatus(id, "accepted")
	}
	cfg := parse(t, listenConfig+fmt.Sprintf("queue: {dir: %q}\n", dir)+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	if _, err := gateway.Audit(t.Context(), cfg); !errors.Is(err, jetstream.ErrLocked) {
		t.Errorf("audit while a gateway uses the folder: %v", err)
	}
	response, err := http.Get(h.adminURL + gateway.AuditPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var served audit.Report
	if err := json.NewDecoder(response.Body).Decode(&served); err != nil || served.Accepted != 20 || !served.Clean() {
		t.Errorf("%d %+v %v", response.StatusCode, served, err)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if report, err := gateway.Audit(t.Context(), cfg); err != nil || report.Accepted != 20 || !report.Clean() || report.Waiting != 0 {
		t.Errorf("%+v %v", report, err)
	}
}

func TestAuditFailsWithoutQueue(t *testing.T) {
	s := newMockEnv(t)
	apps := "apps:\n" + s.appBlock("shop", s.apnsBlock())
	if _, err := gateway.Audit(t.Context(), parse(t, listenConfig+apps)); err == nil {
		t.Error("a configuration without a queue was audited")
	}
	if _, err := gateway.Audit(t.Context(), parse(t, listenConfig+"queue: {dir: nowhere}\n"+apps)); err == nil {
		t.Error("a folder that does not exist was audited")
	}
	response, err := http.Get(s.start(t, listenConfig+apps).adminURL + gateway.AuditPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusNotFound {
		t.Error(response.Status)
	}
}
