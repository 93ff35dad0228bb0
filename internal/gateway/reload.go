// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/push"
)

// Follow loads the configuration and reloads the gateway for each message on changed, until changed
// is closed. If load returns neither a configuration nor an error, nothing has changed. Errors are
// logged and counted, and change nothing. After a reload without an error, Follow calls applied.
func (g *Gateway) Follow(changed <-chan struct{}, load func() (*config.Config, error), applied func(*config.Config)) {
	for range changed {
		var changes []string
		unchanged := false
		g.setState(Reloading, Serving) // not before the gateway serves, nor while it drains
		err := panics.Recover(g.log, "reload", func() error {
			cfg, err := load()
			if err != nil || cfg == nil {
				unchanged = err == nil
				return err
			}
			if changes, err = g.Reload(cfg); err == nil {
				applied(cfg)
			}
			return err
		})
		g.setState(Serving, Reloading)
		if unchanged {
			continue
		}
		g.metrics.Reloaded(err == nil)
		g.audit.Add(auditlog.Record{Action: "config.reload", Result: resultOf(err), Details: changes})
		switch {
		case err != nil:
			g.log.Error("configuration not reloaded; the previous one stays in use", "err", err)
		case len(changes) == 0:
			g.log.Info("configuration reloaded without changes")
		default:
			g.log.Info("configuration reloaded", "changes", changes)
		}
	}
}

// ReferencedFiles returns the files that cfg refers to. A change of their contents is a change of
// the configuration.
func ReferencedFiles(cfg *config.Config) (files []string) {
	for _, f := range fileRefs(cfg) {
		files = append(files, string(f.file))
	}
	for _, app := range cfg.Apps {
		if app.FCM != nil && app.FCM.ServiceAccountFile == "" {
			files = append(files, fcm.DefaultCredentialsFile())
		}
	}
	slices.Sort(files)
	return slices.DeleteFunc(slices.Compact(files), func(file string) bool { return file == "" })
}

// Digest returns a digest of a configuration, which was parsed from text, and of the contents of all
// files that it refers to.
func Digest(text []byte, cfg *config.Config) string {
	h := sha256.New()
	hashPart(h, text)
	for _, file := range ReferencedFiles(cfg) {
		hashPart(h, []byte(file))
		hashPart(h, contents(file))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// contents returns the contents of a regular file, or the reason why there are none. It does not
// read a pipe, which can be read only once.
func contents(file string) []byte {
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		return []byte(info.Mode().String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

// Reload replaces the configuration by cfg and returns the changes, including key files with new
// contents. It reads and validates everything first: after an error the old configuration stays in
// use, unchanged. Unchanged parts keep their connections, tokens, breakers and quotas; quotas and
// app weights change in place. Notifications in progress complete with the old configuration.
func (g *Gateway) Reload(cfg *config.Config) (changes []string, err error) {
	for replaced := false; !replaced; { // replace returns false if another reload was faster
		old := g.current.Load()
		if changes, err = configChanges(old.cfg, cfg); err != nil {
			return nil, err
		}
		next, err := g.buildSnapshot(cfg, old)
		if err != nil {
			return nil, err
		}
		if changes = append(changes, connectionChanges(old, next)...); len(changes) == 0 {
			return nil, nil
		}
		if err := g.storage.checkKeys(old.keys, next.keys); err != nil {
			return nil, err
		}
		if replaced, err = g.replace(old, next); err != nil {
			return nil, err
		}
	}
	g.logWarnings(cfg)
	return changes, nil
}

// maxLoggedWarnings bounds the warnings in the log, so that a start has few lines however many apps
// there are.
const maxLoggedWarnings = 5

// logWarnings logs what is probably wrong with the configuration.
func (g *Gateway) logWarnings(cfg *config.Config) {
	found := 0
	warn := func(message string, args ...any) {
		if found++; found <= maxLoggedWarnings {
			g.log.Warn("config: "+message, args...)
		}
	}
	for _, warning := range configWarnings(cfg) {
		warn(warning)
	}
	for _, check := range timeoutChecks(cfg) {
		_, err := check.Verify(context.Background())
		warn(check.Key, "err", err)
	}
	if found > maxLoggedWarnings {
		g.log.Warn("config: there are more warnings (gateway check shows all)", "not_logged", found-maxLoggedWarnings)
	}
}

// configChanges returns the changes between two configurations, or an error if one of them requires
// a restart.
func configChanges(from, to *config.Config) (changes []string, err error) {
	var restart []string
	for _, change := range config.Diff(from, to) {
		changes = append(changes, change.String())
		if change.Restart {
			restart = append(restart, change.Key)
		}
	}
	for i, was := range from.TLSBlocks() {
		if (was.TLS.CertFile == "") != (to.TLSBlocks()[i].TLS.CertFile == "") {
			restart = append(restart, was.Path)
		}
	}
	if len(restart) > 0 {
		return nil, fmt.Errorf("config: %s cannot change while the gateway runs (restart it)", strings.Join(restart, ", "))
	}
	return changes, nil
}

// connectionChanges lists the blocks that get new connections, and the webhooks that are restarted.
// The reason can be a file with new contents, which configChanges does not see.
func connectionChanges(old, next *snapshot) (changes []string) {
	services := make(map[blockService]*service, len(old.services)) // an APNs block uses up to four, an FCM block two
	for _, s := range old.services {
		for _, path := range s.paths {
			services[blockService{path, s.settings.purpose, s.settings.base}] = s.service
		}
	}
	for _, s := range next.services {
		for _, path := range s.paths {
			switch was := services[blockService{path, s.settings.purpose, s.settings.base}]; {
			case was == nil || was == s.service:
			case was.cred.id != s.cred.id:
				changes = append(changes, path+": new credential")
			default:
				changes = append(changes, path+": reconnecting")
			}
		}
	}
	for _, o := range next.originRouters {
		if was, ok := old.table[o.app][push.WebPush].(*originRouter); ok && was != o {
			changes = append(changes, o.path()+": reconnecting")
		}
	}
	for name, hook := range next.webhooks {
		if was := old.webhooks[name]; was != nil && was != hook {
			changes = append(changes, "webhook "+name+": restarted at its checkpoint")
		}
	}
	for i, issuer := range next.issuers {
		if i < len(old.issuers) && old.issuers[i] != issuer {
			changes = append(changes, fmt.Sprintf("auth.oidc[%d]: fetches its keys again", i))
		}
	}
	if was, is := old.traceExport, next.traceExport; was != nil && is != nil && was != is {
		changes = append(changes, "tracing: reconnecting")
	}
	if next.keys != nil && !sameKeys(old.keys, next.keys) {
		changes = append(changes, encryptionKey+": "+describeKeys(next.keys))
	}
	for i, block := range next.cfg.TLSBlocks() {
		if old.tls[i] != next.tls[i] {
			changes = append(changes, block.Path+": new certificates")
		}
	}
	slices.Sort(changes)
	return slices.Compact(changes)
}

// blockService identifies a service by the configuration block that uses it.
type blockService struct {
	path, purpose string
	base          config.Base
}
