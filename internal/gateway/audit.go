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

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/audit"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
)

// AuditPath is the path on the admin listener where a gateway with a queue serves an audit, with the
// parameter broadcast that of a broadcast.
const AuditPath = "/audit"

// auditSetupTimeout is how long an audit waits for a NATS cluster, less than a gateway does.
const auditSetupTimeout = 10 * time.Second

// Audit reads the stored events of the configuration's queue, and reports the accepted
// notifications that do not have exactly one final status. It can run while the gateways of a
// cluster run. For an embedded queue whose folder a gateway uses, it returns jetstream.ErrLocked;
// that gateway serves the audit at AuditPath.
func Audit(ctx context.Context, cfg *config.Config) (report *audit.Report, err error) {
	err = withAudited(ctx, cfg, func(e *jetstream.Engine) (err error) {
		report, err = audit.Run(ctx, e, auditConfig(cfg))
		return err
	})
	return report, err
}

// AuditBroadcast is Audit for one broadcast: it proves that its counts add up to its audience.
func AuditBroadcast(ctx context.Context, cfg *config.Config, id string) (report *broadcast.Audit, err error) {
	err = withAudited(ctx, cfg, func(e *jetstream.Engine) (err error) {
		report, err = broadcast.RunAudit(ctx, broadcastAuditConfig(e, cfg), id)
		return err
	})
	return report, err
}

func broadcastAuditConfig(e *jetstream.Engine, cfg *config.Config) broadcast.AuditConfig {
	return broadcast.AuditConfig{Engine: e, Read: func(ctx context.Context, id uuid.UUID, f func(broadcast.LoggedLine)) (bool, error) {
		return audit.Broadcast(ctx, e, auditConfig(cfg), id, func(l audit.Line) { f(broadcast.LoggedLine(l)) })
	}}
}

// withAudited calls f with the engine of a configuration.
func withAudited(ctx context.Context, cfg *config.Config, f func(*jetstream.Engine) error) error {
	if !hasQueue(cfg) {
		return errors.New("gateway: nothing to audit: the configuration has no queue (set queue.dir or queue.nats.url)")
	}
	engineConfig, _ := storageConfig(cfg)
	engineConfig.SetupTimeout = auditSetupTimeout
	var err error
	if engineConfig.Keys, err = encryptionKeys(cfg); err != nil {
		return err
	}
	if engineConfig.Dir != "" { // Open would create the folder
		if _, err := os.Stat(engineConfig.Dir); err != nil {
			return fmt.Errorf("gateway: nothing to audit: queue.dir: %w", err)
		}
	}
	e, err := jetstream.Open(ctx, engineConfig)
	if err != nil {
		return fmt.Errorf("gateway: audit: %w", err)
	}
	if err = errors.Join(missingKey(f(e), engineConfig.Keys), e.Close()); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
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
	cfg, report, err := g.current.Load().cfg, any(nil), error(nil)
	if id := r.FormValue("broadcast"); id == "" {
		report, err = audit.Run(r.Context(), g.storage.engine, auditConfig(cfg))
	} else {
		c := broadcastAuditConfig(g.storage.engine, cfg)
		if g.storage.opened.Load() {
			c.Tally = g.storage.Tally
		}
		report, err = broadcast.RunAudit(r.Context(), c, id)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report) // an error means that the client has disconnected
}
