// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
)

// AuditPath is the path on the admin listener where a gateway with a queue serves an audit.
const AuditPath = "/audit"

// auditSetupTimeout is how long an audit waits for a NATS cluster, less than a gateway does.
const auditSetupTimeout = 10 * time.Second

// Audit reads the stored events of the configuration's queue, and reports the accepted
// notifications that do not have exactly one final status. It can run while the gateways of a
// cluster run. For an embedded queue whose folder a gateway uses, it returns jetstream.ErrLocked;
// that gateway serves the audit at AuditPath.
func Audit(ctx context.Context, cfg *config.Config) (*audit.Report, error) {
	if !hasQueue(cfg) {
		return nil, errors.New("gateway: nothing to audit: the configuration has no queue (set queue.dir or queue.nats.url)")
	}
	engineConfig, _ := storageConfig(cfg)
	engineConfig.SetupTimeout = auditSetupTimeout
	var err error
	if engineConfig.Keys, err = encryptionKeys(cfg); err != nil {
		return nil, err
	}
	if engineConfig.Dir != "" { // Open would create the folder
		if _, err := os.Stat(engineConfig.Dir); err != nil {
			return nil, fmt.Errorf("gateway: nothing to audit: queue.dir: %w", err)
		}
	}
	e, err := jetstream.Open(ctx, engineConfig)
	if err != nil {
		return nil, fmt.Errorf("gateway: audit: %w", err)
	}
	report, err := audit.Run(ctx, e, auditConfig(cfg))
	if err = errors.Join(missingKey(err, engineConfig.Keys), e.Close()); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return report, nil
}

func auditConfig(cfg *config.Config) audit.Config {
	return audit.Config{Events: history.Stream, Queues: queue.Streams(), IdempotencyTTL: cfg.History.IdempotencyTTL}
}

// handleAudit serves AuditPath. Only one audit runs at a time, because it reads everything that is
// stored.
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
	report, err := audit.Run(r.Context(), g.storage.engine, auditConfig(g.current.Load().cfg))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report) // an error means that the client has disconnected
}
