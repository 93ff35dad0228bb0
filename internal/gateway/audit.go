// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
)

// AuditPath is where the admin listener of a gateway with a queue answers an audit of what it keeps.
const AuditPath = "/audit"

// Audit reads what the configuration's queue keeps, and tells which accepted notifications have not exactly one end. It
// may run beside the gateways of a cluster; a folder must be nobody's: engine.ErrTaken if a gateway has it, which answers
// the same at AuditPath.
func Audit(ctx context.Context, cfg *config.Config) (*history.Report, error) {
	if !hasQueue(cfg) {
		return nil, errors.New("gateway: nothing to audit: the configuration has no queue (set queue.dir or queue.nats.url)")
	}
	where, _ := storageConfig(cfg)
	if where.Dir != "" { // opening it would make it
		if _, err := os.Stat(where.Dir); err != nil {
			return nil, fmt.Errorf("gateway: nothing to audit: queue.dir: %w", err)
		}
	}
	e, err := jetstream.Open(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("gateway: audit: %w", err)
	}
	report, err := history.Audit(ctx, e, queue.Streams()...)
	if err = errors.Join(err, e.Close()); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return report, nil
}

// handleAudit answers AuditPath. It reads everything that is kept, so one at a time is enough.
func (g *Gateway) handleAudit(w http.ResponseWriter, r *http.Request) {
	if g.storage == nil {
		http.Error(w, "this gateway has no queue", http.StatusNotFound)
		return
	}
	if !g.storage.auditMu.TryLock() {
		http.Error(w, "another audit is running", http.StatusConflict)
		return
	}
	defer g.storage.auditMu.Unlock()
	report, err := history.Audit(r.Context(), g.storage.engine, queue.Streams()...)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report) // who has gone needs none
}
