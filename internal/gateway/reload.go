// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/internal/config"
)

// restartKeys are the keys that count when a gateway starts: what they name is opened once, or held by what is.
var restartKeys = []string{"listen", "admin", "zone", "queue", "history", "quota.shared", "log", "limits.concurrency", "limits.target_latency", "limits.in_flight"}

// Follow reloads when changed says that the configuration may have changed, until changed is closed. What load or the
// reload refuses is logged and counted, and changes nothing; inForce is told what was not refused.
func (g *Gateway) Follow(changed <-chan struct{}, load func() (*config.Config, error), inForce func(*config.Config)) {
	for range changed {
		cfg, err := load()
		var changes []string
		if err == nil {
			changes, err = g.Reload(cfg)
		}
		if err == nil {
			inForce(cfg)
		}
		g.metrics.Reloaded(err == nil)
		switch {
		case err != nil:
			g.log.Error("gateway: not reloaded; the configuration before it stays in force", "error", err)
		case len(changes) == 0:
			g.log.Debug("gateway: reloaded; nothing has changed")
		default:
			g.log.Info("gateway: reloaded", "changes", changes)
		}
	}
}

// ReferencedFiles returns the files that cfg names: what is in them belongs to the configuration.
func ReferencedFiles(cfg *config.Config) (files []string) {
	add := func(names ...config.File) {
		for _, name := range names {
			if name != "" {
				files = append(files, string(name))
			}
		}
	}
	for _, app := range cfg.Apps {
		for _, f := range secretFiles(app) {
			add(f.file)
		}
		if app.APNs != nil {
			add(app.APNs.CAFile, app.APNs.CertFile)
		}
		if app.FCM != nil {
			add(app.FCM.CAFile)
		}
		if app.WebPush != nil {
			add(app.WebPush.CAFile)
		}
		for _, w := range app.Webhooks {
			add(w.CAFile)
		}
	}
	return files
}

// Reload puts cfg in force and returns what it changes, also in key files that have new contents under their old names.
// It reads and checks everything first: after an error the old configuration stays in force as if nothing had been. What
// cfg leaves as it was keeps its connections, tokens, breakers and quotas; quotas and weights of apps change in place. What is on its way ends by the configuration
// that it began with.
func (g *Gateway) Reload(cfg *config.Config) (changes []string, err error) {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	if g.closed {
		return nil, errors.New("gateway: it is about to end: nothing is reloaded")
	}
	old := g.current.Load()
	if changes, err = configChanges(old.cfg, cfg); err != nil {
		return nil, err
	}
	h, err := g.buildSnapshot(cfg, old)
	if err != nil {
		return nil, err
	}
	if changes = append(changes, connectionChanges(old, h)...); len(changes) == 0 {
		return nil, nil
	}
	for _, adjust := range h.onCommit {
		adjust()
	}
	g.unwatchMetrics(old)
	g.watchMetrics(h)
	if g.baseCtx == nil {
		g.current.Store(h)
		return changes, nil
	}
	h.stopRemovedWebhooks(old)
	g.startSnapshot(h)
	g.current.Store(h)
	g.retire(old, h)
	return changes, nil
}

// configChanges returns what changes, or why not all of it can while the gateway runs.
func configChanges(from, to *config.Config) (changes []string, err error) {
	var restart []string
	for _, change := range config.Diff(from, to) {
		changes = append(changes, change.String())
		if slices.ContainsFunc(restartKeys, func(key string) bool {
			return change.Key == key || strings.HasPrefix(change.Key, key+".")
		}) {
			restart = append(restart, change.Key)
		}
	}
	if len(restart) > 0 {
		return nil, fmt.Errorf("config: %s cannot change while the gateway runs (restart it)", strings.Join(restart, ", "))
	}
	return changes, nil
}

// connectionChanges names the blocks that get connections of their own anew, and why if the configuration does not tell: the files
// that it names have other contents.
func connectionChanges(old, h *snapshot) (changes []string) {
	for _, s := range h.services {
		for _, path := range s.paths {
			switch was := old.serviceFor(path); {
			case was == nil || was.pool == s.pool:
			case was.cred.id != s.cred.id:
				changes = append(changes, path+": another credential")
			default:
				changes = append(changes, path+": connects anew")
			}
		}
	}
	for _, o := range h.originRouters {
		if !slices.Contains(old.originRouters, o) && slices.ContainsFunc(old.originRouters, func(was *originRouter) bool { return was.path == o.path }) {
			changes = append(changes, o.path+": connects anew")
		}
	}
	for _, k := range h.webhooks {
		if was := old.webhook(k.Name()); was != nil && was != k {
			changes = append(changes, "webhook "+k.Name()+": begins anew where it was")
		}
	}
	slices.Sort(changes)
	return slices.Compact(changes)
}

// serviceFor returns the service that a block sends through, or nil.
func (h *snapshot) serviceFor(path string) *service {
	for _, s := range h.services {
		if slices.Contains(s.paths, path) {
			return s
		}
	}
	return nil
}
