// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

const (
	lostID = "019ab5a4-0000-7000-8000-000000000001"
	goodID = "019ab5a4-0000-7000-8000-000000000002"
)

// writeHistory creates the directory of a queue with these events in its history.
func writeHistory(t *testing.T, events ...push.Event) (dir string) {
	t.Helper()
	dir = t.TempDir()
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: filepath.Join(dir, "engine")})
	if err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(dir, "index")
	log, err := history.OpenLog(t.Context(), e, index)
	if err != nil {
		t.Fatal(err)
	}
	h, err := history.Open(t.Context(), history.Config{Engine: e, Log: log, Dir: index})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- errors.Join(log.Run(ctx), h.Run(ctx)) }()
	if _, err := h.Append(ctx, events...); err != nil {
		t.Fatal(err)
	}
	cancel()
	for _, err := range []error{testwait.For(t, ended, "the end"), h.Close(), log.Close(), e.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newEvent(id string, status push.Status) push.Event {
	return push.Event{ID: id, App: "shop", At: time.Now(), Status: status}
}

func TestAuditReportsLostNotifications(t *testing.T) {
	good := []push.Event{newEvent(goodID, push.StatusQueued), newEvent(goodID, push.StatusExpired)}
	clean, lossy := writeHistory(t, good...), writeHistory(t, append(good, newEvent(lostID, push.StatusQueued))...)
	if code, stdout, stderr := runGateway(t, nil, "audit", "--dir", clean); code != 0 || !strings.Contains(stdout, "ended exactly once") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
	if code, stdout, _ := runGateway(t, nil, "audit", "--dir", lossy); code != 1 || !strings.HasPrefix(stdout, "lost         "+lostID+" of app shop") {
		t.Errorf("%d %s", code, stdout)
	}
	if code, _, stderr := runGateway(t, nil, "audit", "--dir", clean, "--broadcast", goodID); code != 1 || !strings.Contains(stderr, "no broadcast with this ID") {
		t.Errorf("%d %s", code, stderr)
	}
	code, stdout, _ := runGateway(t, nil, "audit", "--json", "--dir", lossy)
	var report audit.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 1 || report.Lost != 1 || report.Findings[0].ID != lostID {
		t.Errorf("%d %v %s", code, err, stdout)
	}
}

func TestAuditWithoutData(t *testing.T) {
	if code, _, stderr := runGateway(t, nil, "audit", "--dir", filepath.Join(t.TempDir(), "nowhere")); code != 1 || !strings.Contains(stderr, "nothing to audit") {
		t.Errorf("%d %s", code, stderr)
	}
	if code, _, stderr := runGateway(t, nil, "audit"); code != 2 || !strings.Contains(stderr, "missing flags") {
		t.Errorf("%d %s", code, stderr)
	}
}
