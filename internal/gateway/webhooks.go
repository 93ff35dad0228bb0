// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

var (
	_ webhooks.Feed        = (*storage)(nil)
	_ webhooks.Checkpoints = (*checkpointStore)(nil)
)

// appWebhook is a webhook of an app, with the settings that it was built from.
type appWebhook struct {
	*webhooks.Webhook
	config  config.Webhook
	secrets []byte // the text in the configuration or in the secret file
	roots   *rootCAs

	prevDone <-chan struct{} // closed when the previous webhook of this name has ended; nil without one
	done     chan struct{}
	stop     context.CancelFunc // nil before it runs
}

// equal reports whether the webhook has these settings, so that a reload keeps it running.
func (hook *appWebhook) equal(block config.Webhook, secrets []byte, roots *rootCAs) bool {
	return reflect.DeepEqual(hook.config, block) && bytes.Equal(hook.secrets, secrets) && hook.roots == roots
}

// addWebhooks builds the webhooks of an app, or reuses unchanged ones of the current snapshot.
func (b *builder) addWebhooks(app string, blocks []config.Webhook, files *files) {
	for i, block := range blocks {
		hook, err := b.newWebhook(fmt.Sprintf("apps.%s.webhooks[%d]", app, i), app, block, files)
		if err != nil {
			b.errs = append(b.errs, err)
			continue
		}
		b.next.webhooks = append(b.next.webhooks, hook)
	}
}

func (b *builder) newWebhook(path, app string, block config.Webhook, files *files) (*appWebhook, error) {
	roots, err := files.rootCAs(path, block.CAFile)
	if err != nil {
		return nil, err
	}
	text := []byte(block.Secret)
	if block.SecretFile != "" {
		if text, err = readFile(path, "secret_file", block.SecretFile); err != nil {
			return nil, err
		}
	}
	previous := b.previous.webhook(app + "/" + block.Name)
	if previous != nil && previous.equal(block, text, roots) {
		return previous, nil
	}
	secrets, err := parseSecrets(text)
	if err != nil {
		return nil, keyError(path, "secret_file", err)
	}
	w, err := webhooks.New(webhooks.Config{
		App: app, Name: block.Name, URL: string(block.URL), Secrets: secrets, Events: eventStatuses(block.Events), AllowedNetworks: prefixes(block.Networks),
		RootCAs: roots.certPool(), Feed: b.storage, Checkpoints: &b.storage.checkpoints, Logger: b.log,
	})
	if err != nil {
		return nil, keyError(path, "url", err)
	}
	hook := &appWebhook{Webhook: w, config: block, secrets: text, roots: roots, done: make(chan struct{})}
	if previous != nil && previous.stop != nil {
		hook.prevDone = previous.done
	}
	return hook, nil
}

// parseSecrets parses one secret per line.
func parseSecrets(text []byte) (secrets []webhooks.Secret, err error) {
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		secret, err := webhooks.ParseSecret(line)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	if secrets == nil {
		return nil, errors.New("contains no secret")
	}
	return secrets, nil
}

func eventStatuses(words []string) (statuses []push.Status) {
	for _, word := range words {
		statuses = append(statuses, push.Status(word))
	}
	return statuses
}

func prefixes(configured []config.Network) (prefixes []netip.Prefix) {
	for _, n := range configured {
		prefixes = append(prefixes, netip.MustParsePrefix(string(n))) // config has validated it
	}
	return prefixes
}

// webhook returns the webhook with a name, or nil.
func (snap *snapshot) webhook(name string) *appWebhook {
	for _, hook := range snap.webhooks {
		if hook.Name() == name {
			return hook
		}
	}
	return nil
}

// startWebhooks starts the webhooks of a snapshot that do not run yet. The caller holds g.reloadMu.
func (g *Gateway) startWebhooks(snap *snapshot) {
	for _, hook := range snap.webhooks {
		if hook.stop == nil {
			hook.stop = g.storage.webhookRunner.run(&g.storage.checkpoints, hook, g.log)
		}
	}
}

// webhookRunner runs webhooks, also of earlier snapshots. The zero value is ready to use.
type webhookRunner struct {
	once  sync.Once
	ctx   context.Context // parent of all webhooks
	stop  context.CancelFunc
	group errgroup.Group
}

func (w *webhookRunner) init() {
	w.once.Do(func() { w.ctx, w.stop = context.WithCancel(context.Background()) })
}

// run runs a webhook until stop or stopAll is called. It first waits for the previous webhook of
// the same name to end.
func (w *webhookRunner) run(checkpoints *checkpointStore, hook *appWebhook, log *slog.Logger) (stop context.CancelFunc) {
	w.init()
	ctx, stop := context.WithCancel(w.ctx)
	w.group.Go(func() error {
		defer close(hook.done)
		if hook.prevDone != nil {
			<-hook.prevDone // already stopped
		}
		task := "webhook " + hook.Name()
		return panics.Restart(ctx, log, task, func(ctx context.Context) error {
			return checkpoints.withLease(ctx, hook.Name(), func(ctx context.Context) error { return panics.Restart(ctx, log, task, hook.Run) })
		})
	})
	return stop
}

// stopAll stops all webhooks. The next process, or another gateway of the cluster, delivers the
// remaining events.
func (w *webhookRunner) stopAll() error {
	w.init()
	w.stop()
	return w.group.Wait()
}

// stopRemovedWebhooks stops the webhooks of the old snapshot that are not in this one.
func (snap *snapshot) stopRemovedWebhooks(old *snapshot) {
	for _, hook := range old.webhooks {
		if !slices.Contains(snap.webhooks, hook) {
			hook.stop()
		}
	}
}

// webhookStatus returns the states of the webhooks.
func (snap *snapshot) webhookStatus() (all []webhooks.Status) {
	for _, hook := range snap.webhooks {
		all = append(all, hook.Status())
	}
	return all
}
