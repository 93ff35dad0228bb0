// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/proxy"
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
	proxy   *proxy.Proxy

	stop  context.CancelFunc // nil before it runs
	ended chan struct{}      // closed when it has ended
}

// equal reports whether the webhook has these settings, so that a reload keeps it running.
func (hook *appWebhook) equal(block config.Webhook, secrets []byte, roots *rootCAs, p *proxy.Proxy) bool {
	return reflect.DeepEqual(hook.config, block) && bytes.Equal(hook.secrets, secrets) && hook.roots == roots && hook.proxy == p
}

// addWebhooks builds the webhooks of an app, or reuses unchanged ones of the current snapshot.
func (b *builder) addWebhooks(app string, blocks []config.Webhook, files *files) {
	for i, block := range blocks {
		hook, err := b.newWebhook(fmt.Sprintf("apps.%s.webhooks[%d]", app, i), app, block, files)
		if err != nil {
			b.errs = append(b.errs, err)
			continue
		}
		b.next.webhooks[hook.Name()] = hook
	}
}

func (b *builder) newWebhook(path, app string, block config.Webhook, files *files) (*appWebhook, error) {
	roots, err := files.rootCAs(path, block.CAFile)
	if err != nil {
		return nil, err
	}
	p, err := files.proxy(path+".proxy", block.Proxy)
	if err != nil {
		return nil, err
	}
	text := []byte(block.Secret)
	if block.SecretFile != "" {
		if text, err = readFile(path, "secret_file", block.SecretFile); err != nil {
			return nil, err
		}
	}
	if known := b.previous.webhooks[app+"/"+block.Name]; known != nil && known.equal(block, text, roots, p) {
		return known, nil
	}
	secrets, err := parseSecrets(text)
	if err != nil {
		return nil, keyError(path, "secret_file", err)
	}
	receiver, err := url.Parse(string(block.URL))
	if err != nil {
		return nil, keyError(path, "url", errors.New("is not a URL")) // without its text, which may contain a secret
	}
	var dial func(ctx context.Context, network, address string) (net.Conn, error)
	if p.Use(hostPort(receiver)) { // the proxy decides what may be connected to
		dial = p.DialContext
	}
	w, err := webhooks.New(webhooks.Config{
		App: app, Name: block.Name, URL: string(block.URL), Secrets: secrets, Events: eventStatuses(block.Events), AllowedNetworks: prefixes(block.Networks),
		RootCAs: roots.certPool(), Dial: dial, Feed: b.storage, Checkpoints: &b.storage.checkpoints, StartSpan: b.tracer.StartPost, Logger: b.log,
	})
	if err != nil {
		return nil, keyError(path, "url", err)
	}
	return &appWebhook{Webhook: w, config: block, secrets: text, roots: roots, proxy: p}, nil
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

// start runs the webhook until it or the storage stops. It first waits for the end of previous, the
// stopped webhook of the same name, if there is one.
func (hook *appWebhook) start(st *storage, previous *appWebhook) {
	ctx, stop := context.WithCancel(st.delivering.ctx)
	hook.stop, hook.ended = stop, make(chan struct{})
	st.delivering.start(func(context.Context) error {
		defer close(hook.ended)
		if previous != nil {
			<-previous.ended
		}
		task := "webhook " + hook.Name()
		return panics.Restart(ctx, st.log, task, func(ctx context.Context) error {
			return st.checkpoints.withLease(ctx, hook.Name(), func(ctx context.Context) error { return panics.Restart(ctx, st.log, task, hook.Run) })
		})
	})
}

// runWebhooks stops the webhooks of old that the snapshot does not share, and starts its own that do
// not run yet. The caller holds g.mu.
func (snap *snapshot) runWebhooks(st *storage, old *snapshot) {
	for name, was := range old.webhooks {
		if was.stop != nil && snap.webhooks[name] != was {
			was.stop()
		}
	}
	for name, hook := range snap.webhooks {
		if previous := old.webhooks[name]; hook.stop == nil {
			hook.start(st, previous)
		}
	}
}

// webhookStatus returns the states of the webhooks.
func (snap *snapshot) webhookStatus() (all []webhooks.Status) {
	for _, name := range slices.Sorted(maps.Keys(snap.webhooks)) {
		all = append(all, snap.webhooks[name].Status())
	}
	return all
}
