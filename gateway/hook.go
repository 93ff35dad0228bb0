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

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/webhook"
)

var (
	_ webhook.Feed        = (*durable)(nil)
	_ webhook.Checkpoints = (*positions)(nil)
)

// hook is a webhook of the configuration.
type hook struct {
	*webhook.Webhook
	block   config.Webhook
	secrets []byte // as they stand in the configuration or the file
	roots   *x509.CertPool

	before <-chan struct{} // closed once the one of this name that stood before has ended; nil without one
	ended  chan struct{}
	stop   context.CancelFunc // nil until it runs
}

// same reports whether a webhook of the same name is this one, so that a reload lets it go on.
func (k *hook) same(block config.Webhook, secrets []byte, roots *x509.CertPool) bool {
	trusts := k.roots == roots || k.roots != nil && roots != nil && k.roots.Equal(roots)
	return reflect.DeepEqual(k.block, block) && bytes.Equal(k.secrets, secrets) && trusts
}

// hooks makes the webhooks of an app, or takes over those that stand.
func (b *builder) webhooks(app string, blocks []config.Webhook) {
	for i, block := range blocks {
		k, err := b.webhook(fmt.Sprintf("apps.%s.webhooks[%d]", app, i), app, block)
		if err != nil {
			b.problems = append(b.problems, err)
			continue
		}
		b.hooks = append(b.hooks, k)
	}
}

func (b *builder) webhook(path, app string, block config.Webhook) (*hook, error) {
	roots, err := authorities(path, block.CAFile)
	if err != nil {
		return nil, err
	}
	text := []byte(block.Secret)
	if block.SecretFile != "" {
		if text, err = readFile(path, "secret_file", block.SecretFile); err != nil {
			return nil, err
		}
	}
	standing := b.standing.hook(app + "/" + block.Name)
	if standing != nil && standing.same(block, text, roots) {
		return standing, nil
	}
	secrets, err := parseSecrets(text)
	if err != nil {
		return nil, keyError(path, "secret_file", err)
	}
	w, err := webhook.New(webhook.Config{
		App: app, Name: block.Name, URL: string(block.URL), Secrets: secrets, Events: events(block.Events), AllowedNetworks: networks(block.Networks),
		RootCAs: roots, Feed: b.durable, Checkpoints: &b.durable.positions, Logger: b.log,
	})
	if err != nil {
		return nil, keyError(path, "url", err)
	}
	k := &hook{Webhook: w, block: block, secrets: text, roots: roots, ended: make(chan struct{})}
	if standing != nil && standing.stop != nil {
		k.before = standing.ended
	}
	return k, nil
}

// parseSecrets reads a secret on each line.
func parseSecrets(text []byte) (secrets []webhook.Secret, err error) {
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		secret, err := webhook.ParseSecret(line)
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

func events(words []string) (statuses []push.Status) {
	for _, word := range words {
		statuses = append(statuses, push.Status(word))
	}
	return statuses
}

func networks(configured []config.Network) (prefixes []netip.Prefix) {
	for _, n := range configured {
		prefixes = append(prefixes, netip.MustParsePrefix(string(n))) // config has checked it
	}
	return prefixes
}

// hook returns the standing webhook of a name, or nil.
func (h *house) hook(name string) *hook {
	if h == nil {
		return nil
	}
	for _, k := range h.hooks {
		if k.Name() == name {
			return k
		}
	}
	return nil
}

// tell runs the webhooks that do not run yet. g.reloading is held.
func (g *Gateway) tell(h *house) {
	for _, k := range h.hooks {
		if k.stop == nil {
			k.stop = g.durable.webhooks.run(&g.durable.positions, k)
		}
	}
}

// webhooks are those that run, by whatever configuration.
type webhooks struct {
	once    sync.Once
	all     context.Context // of all of them
	stop    context.CancelFunc
	running errgroup.Group
}

func (w *webhooks) begin() {
	w.once.Do(func() { w.all, w.stop = context.WithCancel(context.Background()) })
}

// run runs a webhook until it is stopped or all are, once the one of its name that stood before has ended.
func (w *webhooks) run(p *positions, k *hook) (stop context.CancelFunc) {
	w.begin()
	ctx, stop := context.WithCancel(w.all)
	w.running.Go(func() error {
		defer close(k.ended)
		if k.before != nil {
			<-k.before // it has been stopped
		}
		return p.hold(ctx, k.Name(), k.Run)
	})
	return stop
}

// end ends all. What was not told by then is told by the next process, or by another of the cluster.
func (w *webhooks) end() error {
	w.begin()
	w.stop()
	return w.running.Wait()
}

// silence ends the webhooks of the old house that are not in the new one.
func (h *house) silence(old *house) {
	for _, k := range old.hooks {
		if !slices.Contains(h.hooks, k) {
			k.stop()
		}
	}
}

// hookStatus is how the webhooks stand.
func (h *house) hookStatus() (all []webhook.Status) {
	for _, k := range h.hooks {
		all = append(all, k.Status())
	}
	return all
}
