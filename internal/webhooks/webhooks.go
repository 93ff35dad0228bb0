// SPDX-License-Identifier: Apache-2.0

// Package webhooks posts the events of an app to a receiver: in batches, signed and in order, until
// the receiver accepts them or they are a day old. It does not store events. Webhooks do not block
// each other.
package webhooks

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/publicaddr"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// Feed is the source of the events.
type Feed interface {
	// Feed yields the events of an app for which want returns true: those after the cursor, and
	// then new ones, until ctx ends. The cursor "" means now, and "oldest" the oldest stored event.
	// If no event passed want for a while, it calls want with an event that has a cursor but no ID.
	// An error ends the feed; push.ErrCursorExpired means that events after the cursor are no
	// longer stored.
	Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error]
}

// Checkpoints stores the progress of each webhook by its name. A saved checkpoint must survive a
// restart of the process.
type Checkpoints interface {
	// Load returns the zero Checkpoint for an unknown webhook.
	Load(ctx context.Context, name string) (Checkpoint, error)
	Save(ctx context.Context, name string, p Checkpoint) error
}

// Config configures one webhook. App, Name, URL, Secrets, Feed and Checkpoints are required.
type Config struct {
	App string
	// Name distinguishes the webhook from the app's other webhooks, in logs, in the status, and as
	// part of the name of its checkpoint.
	Name string
	// URL is the https URL to which events are posted. Its path can contain a secret, so it is
	// never logged or shown.
	URL string
	// Secrets sign every message: a message has one signature for each. During a rotation, the list
	// contains the old and the new secret.
	Secrets []Secret
	// Events are the statuses of the events to deliver. None means all final statuses.
	Events []push.Status
	// AllowedNetworks are networks that are not public but may be connected to. nil allows none.
	AllowedNetworks []netip.Prefix
	// RootCAs are the only trusted certificate authorities. nil means those of the system.
	RootCAs *x509.CertPool
	// Dial connects to the receiver. nil connects only to public addresses and AllowedNetworks.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// MaxEvents and MaxBytes limit one message: the number of events (default 500) and the bytes of
	// their JSON (default 256 KiB).
	MaxEvents, MaxBytes int
	// Linger is how long the first event of a message waits for more; default 200 ms.
	Linger time.Duration
	// Timeout limits one attempt, including the response; default 20 s. Standard Webhooks recommends
	// 15 s to 30 s.
	Timeout time.Duration
	// Backoff and MaxBackoff limit the wait after a failure. It is random (full jitter), and its
	// upper bound doubles with each failure from Backoff to MaxBackoff; defaults 1 s and 5 min.
	Backoff, MaxBackoff time.Duration
	// RetryFor is how long an event is retried, counted from its time; default 24 h. After that it
	// is dead-lettered.
	RetryFor time.Duration

	Feed        Feed
	Checkpoints Checkpoints
	// StartSpan is called before each attempt to post events of notifications that belong to traces. It
	// returns the trace context to send, or none to send that of the events, and a function that is
	// called with the status of the response, or 0 without one. nil makes no spans.
	StartSpan func(webhook string, events int, traces []push.TraceContext) (sent push.TraceContext, end func(status int))
	// Logger gets the messages for operators. nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxEvents, 500)
	setDefault(&c.MaxBytes, 256<<10)
	setDefault(&c.Linger, 200*time.Millisecond)
	setDefault(&c.Timeout, 20*time.Second)
	setDefault(&c.Backoff, time.Second)
	setDefault(&c.MaxBackoff, 5*time.Minute)
	setDefault(&c.RetryFor, 24*time.Hour)
	if len(c.Events) == 0 {
		c.Events = finalStatuses
	}
	if c.Dial == nil {
		c.Dial = publicaddr.Dialer{Allow: c.AllowedNetworks}.DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}

// finalStatuses are the statuses after which a notification has no more events.
var finalStatuses = []push.Status{
	push.StatusAccepted, push.StatusUnregistered, push.StatusRefused, push.StatusThrottled, push.StatusUnauthorized,
	push.StatusUnavailable, push.StatusUnknown, push.StatusExpired, push.StatusCancelled,
}

// Webhook posts events of one app to one receiver. Make one with New; it delivers while Run runs.
type Webhook struct {
	cfg     Config
	name    string // the app's name, a slash and the webhook's name
	client  *http.Client
	log     *slog.Logger
	created time.Time
	digest  string // of the configuration

	mu            sync.Mutex
	checkpoint    Checkpoint
	saved         time.Time // when the checkpoint was saved
	failures      int       // consecutive
	lastError     string    // text of the last failure; empty after a success
	nextAttempt   time.Time // zero unless it waits after a failure
	deliveredUpTo time.Time // time of the newest delivered event
	delivered     uint64    // number of delivered events
}

// New validates cfg. It starts no goroutine. An error names the invalid field and contains neither
// a secret nor the URL.
func New(cfg Config) (*Webhook, error) {
	cfg = cfg.withDefaults()
	target, err := url.Parse(cfg.URL)
	switch {
	case cfg.App == "" || cfg.Name == "":
		return nil, errors.New("webhooks: App and Name must be set")
	case err != nil || target.Scheme != "https" || target.Host == "" || target.User != nil:
		return nil, errors.New("webhooks: URL must be an https URL without a user")
	case len(cfg.Secrets) == 0:
		return nil, errors.New("webhooks: Secrets must not be empty")
	case cfg.Feed == nil || cfg.Checkpoints == nil:
		return nil, errors.New("webhooks: Feed and Checkpoints must be set")
	}
	name := cfg.App + "/" + cfg.Name
	return &Webhook{cfg: cfg, name: name, client: newClient(cfg), log: cfg.Logger.With("webhook", name), created: time.Now().UTC(), digest: cfg.digest()}, nil
}

// digest returns a digest of everything that decides what is sent to whom. It reveals neither the
// URL nor a secret, because the secrets are random.
func (c Config) digest() string {
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%q %q %q", c.URL, c.Events, c.AllowedNetworks)
	for _, s := range c.Secrets {
		_, _ = fmt.Fprintf(sum, " %x", []byte(s))
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// Name returns the app's name, a slash and the webhook's name.
func (w *Webhook) Name() string { return w.name }

// Run delivers events until ctx ends. A message that the receiver has not acknowledged by then is
// posted again by the next Run, as after a crash. If the receiver disables the webhook, Run delivers
// nothing more, and later Runs deliver nothing until the configuration has changed.
func (w *Webhook) Run(ctx context.Context) error {
	defer w.client.CloseIdleConnections()
	for failures := 0; ctx.Err() == nil; failures++ {
		err := w.loadCheckpoint(ctx)
		if err == nil {
			failures = 0
			err = w.deliverFeed(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errDisabled) {
			w.log.Error("webhook disabled by its receiver with HTTP status 410; change its configuration to enable it")
			w.client.CloseIdleConnections()
			<-ctx.Done()
			return nil
		}
		if errors.Is(err, push.ErrCursorExpired) {
			w.skipExpired(ctx)
			continue
		}
		w.log.Warn("webhook feed or checkpoint not available, retrying", "err", err)
		sleep.For(ctx, backoff(failures+1, w.cfg.Backoff, w.cfg.MaxBackoff))
	}
	return nil
}

// loadCheckpoint loads the checkpoint. A new webhook starts with the events since its creation. A
// webhook that was disabled with another configuration is enabled.
func (w *Webhook) loadCheckpoint(ctx context.Context) error {
	p, err := w.cfg.Checkpoints.Load(ctx, w.name)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	isNew, enable := p.Since.IsZero(), p.Disabled != nil && p.Disabled.Config != w.digest
	if isNew {
		p.Since = w.created
	}
	if enable {
		w.log.Info("webhook enabled by a change of its configuration", "disabled_since", p.Disabled.At)
		p.Disabled = nil
	}
	if isNew || enable {
		if err := w.cfg.Checkpoints.Save(ctx, w.name, p); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkpoint = p
	return nil
}

// deliverFeed delivers events until the feed ends or the webhook is disabled.
func (w *Webhook) deliverFeed(ctx context.Context) error {
	if w.isDisabled() {
		return errDisabled
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{feed: w.cfg.Feed, app: w.cfg.App, want: w.wants, events: make(chan feedItem)}
	var reading sync.WaitGroup
	reading.Go(func() {
		_ = panics.Recover(w.log, "feed of webhook "+w.name, func() error { r.run(ctx, w.cursor()); return nil }) // the feed ends
	})
	defer reading.Wait()
	defer cancel()
	for {
		b, err := r.batch(ctx, w.cfg)
		if err != nil {
			return err
		}
		if err := w.deliver(ctx, b); err != nil {
			return err
		}
	}
}

// wants selects the events to deliver. It also accepts events without an ID, which only carry a
// cursor.
func (w *Webhook) wants(e *push.Event) bool {
	return e.ID == "" || slices.Contains(w.cfg.Events, e.Status) && !e.At.Before(w.since())
}

func (w *Webhook) since() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.checkpoint.Since.Truncate(time.Millisecond) // like the times of events
}

// cursor returns the cursor after which to read.
func (w *Webhook) cursor() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.checkpoint.After == "" {
		return "oldest"
	}
	return w.checkpoint.After
}
