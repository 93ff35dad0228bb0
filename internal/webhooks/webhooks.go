// SPDX-License-Identifier: Apache-2.0

// Package webhook brings an app's events to its receiver: in batches, signed, in their order, until it takes them or a day
// has passed. It keeps no event, and nothing it does waits for another webhook.
package webhooks

import (
	"context"
	"crypto/x509"
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

	"github.com/sluice-push/sluice/internal/publicaddr"
	"github.com/sluice-push/sluice/push"
)

// Feed is where the events come from.
type Feed interface {
	// Feed gives an app's events that want lets through, those behind the cursor after and then those to come, until ctx
	// ends. "" stands for now, "oldest" for the beginning of what is kept. Where nothing was let through for a while, want
	// is asked about an event that has a cursor and no ID. An error ends it; push.ErrForgotten says that what stood behind
	// the cursor is not kept any more.
	Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error]
}

// Checkpoints remember how far each webhook is, by its name. What was saved last must outlive the process.
type Checkpoints interface {
	// Load returns the zero Position for a webhook that nobody has heard of.
	Load(ctx context.Context, name string) (Checkpoint, error)
	Save(ctx context.Context, name string, p Checkpoint) error
}

// Config is one webhook. App, Name, URL, Secrets, Feed and Positions are required.
type Config struct {
	App string
	// Name tells it from the app's other webhooks, in logs and status. Its position is kept under the app and the name.
	Name string
	// URL is where the events are posted, with https. It may hold a secret in its path, and is never shown.
	URL string
	// Secrets sign every message, each of them: while the receiver changes to a new one, both are here.
	Secrets []Secret
	// Events are the statuses that are told; none means every end.
	Events []push.Status
	// Networks may be connected to though they are not of the public internet; nil allows none.
	AllowedNetworks []netip.Prefix
	// Authorities are trusted besides nobody else; nil trusts the system's.
	RootCAs *x509.CertPool
	// Dial connects; nil connects to public addresses and Networks alone.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Most and MostBytes bound one message, in events (default 500) and bytes of their JSON (default 256 KiB).
	MaxEvents, MaxBytes int
	// Linger is how long the first event of a message waits for others; default 200 ms.
	Linger time.Duration
	// Timeout is how long the receiver may take to answer; default 10 s.
	Timeout time.Duration
	// Backoff and MaxBackoff bound the wait after a failure, which is drawn at random up to twice that of the one before;
	// default 1 s and 5 min.
	Backoff, MaxBackoff time.Duration
	// GiveUp is how long an event is tried, counted from when it happened; default 24 h. Then it is parked.
	RetryFor time.Duration

	Feed        Feed
	Checkpoints Checkpoints
	// Logger gets what an operator should know; nil discards it.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.MaxEvents, 500)
	setDefault(&c.MaxBytes, 256<<10)
	setDefault(&c.Linger, 200*time.Millisecond)
	setDefault(&c.Timeout, 10*time.Second)
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

// finalStatuses are the statuses that nothing more comes after.
var finalStatuses = []push.Status{
	push.StatusAccepted, push.StatusUnregistered, push.StatusRefused, push.StatusThrottled, push.StatusUnauthorized,
	push.StatusUnavailable, push.StatusUnknown, push.StatusExpired, push.StatusCancelled,
}

// Webhook is one receiver of one app's events. It is made by New and delivers while Run runs.
type Webhook struct {
	cfg     Config
	name    string // with the app
	client  *http.Client
	log     *slog.Logger
	created time.Time

	mu            sync.Mutex
	checkpoint    Checkpoint
	saved         time.Time // when the position was
	failures      int       // in a row
	lastError     string    // of the last failure
	nextAttempt   time.Time // of the next attempt, while it waits for that
	deliveredUpTo time.Time // when the last event happened that the receiver took
	delivered     uint64    // of the events that it took
}

// New checks the configuration and starts nothing. An error names the field that is wrong, and never a secret or the URL.
func New(cfg Config) (*Webhook, error) {
	cfg = cfg.withDefaults()
	at, err := url.Parse(cfg.URL)
	switch {
	case cfg.App == "" || cfg.Name == "":
		return nil, errors.New("webhook: App and Name must be set")
	case err != nil || at.Scheme != "https" || at.Host == "" || at.User != nil:
		return nil, errors.New("webhook: URL must be one with https and without a user")
	case len(cfg.Secrets) == 0:
		return nil, errors.New("webhook: Secrets must hold one")
	case cfg.Feed == nil || cfg.Checkpoints == nil:
		return nil, errors.New("webhook: Feed and Positions must be set")
	}
	name := cfg.App + "/" + cfg.Name
	return &Webhook{cfg: cfg, name: name, client: newClient(cfg), log: cfg.Logger.With("webhook", name), created: time.Now().UTC()}, nil
}

// Name is the app's name, a slash and the webhook's.
func (w *Webhook) Name() string { return w.name }

// Run delivers until ctx ends. What was posted and not answered by then is posted again the next time, as after a crash.
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
		if errors.Is(err, push.ErrCursorExpired) {
			w.skipExpired(ctx)
			continue
		}
		w.log.Warn("webhook: the events or the position cannot be read; trying again", "err", err)
		w.sleep(ctx, backoff(failures+1, w.cfg.Backoff, w.cfg.MaxBackoff))
	}
	return nil
}

// loadCheckpoint finds out how far it is. A new webhook begins with what has happened since it was made.
func (w *Webhook) loadCheckpoint(ctx context.Context) error {
	p, err := w.cfg.Checkpoints.Load(ctx, w.name)
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	if p.Since.IsZero() {
		p.Since = w.created
		if err := w.cfg.Checkpoints.Save(ctx, w.name, p); err != nil {
			return fmt.Errorf("position: %w", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkpoint = p
	return nil
}

// deliverFeed delivers events as they come, until the feed ends.
func (w *Webhook) deliverFeed(ctx context.Context) error {
	ctx, leave := context.WithCancel(ctx)
	r := &reader{feed: w.cfg.Feed, app: w.cfg.App, want: w.wants, events: make(chan feedItem)}
	var reading sync.WaitGroup
	reading.Go(func() { r.run(ctx, w.cursor()) })
	defer reading.Wait()
	defer leave()
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

// wants chooses the events that are told, and the marks that show how far the feed is besides.
func (w *Webhook) wants(e *push.Event) bool {
	return e.ID == "" || slices.Contains(w.cfg.Events, e.Status) && !e.At.Before(w.since())
}

func (w *Webhook) since() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.checkpoint.Since.Truncate(time.Millisecond) // as events are
}

// cursor is the cursor to read behind.
func (w *Webhook) cursor() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.checkpoint.After == "" {
		return "oldest"
	}
	return w.checkpoint.After
}

// sleep waits, and reports whether ctx has not ended before.
func (w *Webhook) sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
