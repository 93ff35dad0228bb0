// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

var (
	_ webhooks.Feed        = (*storage)(nil)
	_ webhooks.Checkpoints = (*checkpointStore)(nil)
)

// appWebhook is a webhook of the configuration.
type appWebhook struct {
	*webhooks.Webhook
	config  config.Webhook
	secrets []byte // as they stand in the configuration or the file
	roots   *x509.CertPool

	prevDone <-chan struct{} // closed once the one of this name that stood before has ended; nil without one
	done     chan struct{}
	stop     context.CancelFunc // nil until it runs
}

// equal reports whether a webhook of the same name is this one, so that a reload lets it go on.
func (k *appWebhook) equal(block config.Webhook, secrets []byte, roots *x509.CertPool) bool {
	trusts := k.roots == roots || k.roots != nil && roots != nil && k.roots.Equal(roots)
	return reflect.DeepEqual(k.config, block) && bytes.Equal(k.secrets, secrets) && trusts
}

// hooks makes the webhooks of an app, or takes over those that stand.
func (b *builder) addWebhooks(app string, blocks []config.Webhook) {
	for i, block := range blocks {
		k, err := b.newWebhook(fmt.Sprintf("apps.%s.webhooks[%d]", app, i), app, block)
		if err != nil {
			b.errs = append(b.errs, err)
			continue
		}
		b.appWebhooks = append(b.appWebhooks, k)
	}
}

func (b *builder) newWebhook(path, app string, block config.Webhook) (*appWebhook, error) {
	roots, err := loadRoots(path, block.CAFile)
	if err != nil {
		return nil, err
	}
	text := []byte(block.Secret)
	if block.SecretFile != "" {
		if text, err = readFile(path, "secret_file", block.SecretFile); err != nil {
			return nil, err
		}
	}
	standing := b.current.webhook(app + "/" + block.Name)
	if standing != nil && standing.equal(block, text, roots) {
		return standing, nil
	}
	secrets, err := parseSecrets(text)
	if err != nil {
		return nil, keyError(path, "secret_file", err)
	}
	w, err := webhooks.New(webhooks.Config{
		App: app, Name: block.Name, URL: string(block.URL), Secrets: secrets, Events: eventStatuses(block.Events), AllowedNetworks: prefixes(block.Networks),
		RootCAs: roots, Feed: b.storage, Checkpoints: &b.storage.checkpoints, Logger: b.log,
	})
	if err != nil {
		return nil, keyError(path, "url", err)
	}
	k := &appWebhook{Webhook: w, config: block, secrets: text, roots: roots, done: make(chan struct{})}
	if standing != nil && standing.stop != nil {
		k.prevDone = standing.done
	}
	return k, nil
}

// parseSecrets reads a secret on each line.
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
		return nil, errors.New("holds no secret")
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
		prefixes = append(prefixes, netip.MustParsePrefix(string(n))) // config has checked it
	}
	return prefixes
}

// webhook returns the standing webhook of a name, or nil.
func (h *snapshot) webhook(name string) *appWebhook {
	if h == nil {
		return nil
	}
	for _, k := range h.webhooks {
		if k.Name() == name {
			return k
		}
	}
	return nil
}

// startWebhooks runs the webhooks that do not run yet. g.reloading is held.
func (g *Gateway) startWebhooks(h *snapshot) {
	for _, k := range h.webhooks {
		if k.stop == nil {
			k.stop = g.storage.webhookRunner.run(&g.storage.checkpoints, k)
		}
	}
}

// webhookRunner are those that run, by whatever configuration.
type webhookRunner struct {
	once  sync.Once
	ctx   context.Context // of all of them
	stop  context.CancelFunc
	group errgroup.Group
}

func (w *webhookRunner) init() {
	w.once.Do(func() { w.ctx, w.stop = context.WithCancel(context.Background()) })
}

// run runs a webhook until it is stopped or all are, once the one of its name that stood before has ended.
func (w *webhookRunner) run(p *checkpointStore, k *appWebhook) (stop context.CancelFunc) {
	w.init()
	ctx, stop := context.WithCancel(w.ctx)
	w.group.Go(func() error {
		defer close(k.done)
		if k.prevDone != nil {
			<-k.prevDone // it has been stopped
		}
		return p.withLease(ctx, k.Name(), k.Run)
	})
	return stop
}

// stopAll ends all. What was not told by then is told by the next process, or by another of the cluster.
func (w *webhookRunner) stopAll() error {
	w.init()
	w.stop()
	return w.group.Wait()
}

// stopRemovedWebhooks ends the webhooks of the old house that are not in the new one.
func (h *snapshot) stopRemovedWebhooks(old *snapshot) {
	for _, k := range old.webhooks {
		if !slices.Contains(h.webhooks, k) {
			k.stop()
		}
	}
}

// webhookStatus is how the webhooks stand.
func (h *snapshot) webhookStatus() (all []webhooks.Status) {
	for _, k := range h.webhooks {
		all = append(all, k.Status())
	}
	return all
}
