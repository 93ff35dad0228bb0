// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/sluice-push/sluice/pool"
)

const (
	maxGateways           = 1024             // connected at the same time
	maxRedialDelay        = 10 * time.Second // to a gateway that cannot be reached
	defaultTimeout        = 30 * time.Second // of a call
	defaultAttemptTimeout = time.Minute      // if the gateway reports no maximum
)

// Config configures a client. App, Key and either Gateways or File are required.
type Config struct {
	// Gateways are base URLs: http://host:port (HTTP/2 without TLS) or https://host. Each address
	// of a name is a gateway of its own, and names are resolved again periodically.
	Gateways []string
	// File names a file that lists the gateways instead: one URL on each line, optionally followed
	// by a space and the gateway's zone, which is needed only if the gateway does not report it.
	// "#" starts a comment. The file is reloaded when it changes. If it cannot be read or is
	// invalid, the last list stays in use.
	File string
	// App is the app whose notifications the client sends.
	App string
	// Key is an API key of the app.
	Key Key
	// Zone is the zone of this client. Gateways that report the same zone are preferred while they
	// have capacity. Empty means no preference.
	Zone string
	// Timeout applies to calls whose context has no deadline; default 30 s.
	Timeout time.Duration
	// Attempts is the maximum number of gateways to try while nothing has been sent; default 5, so
	// that a call leaves a zone of four gateways that cannot reach the provider.
	Attempts int
	// HedgeAfter is how long Send waits for the first gateway before it sends the same request to a
	// second one; it returns the first verdict. The second gateway must share its Idempotency-Keys
	// with the first (queue.nats.url: a cluster), so that only one of them sends the notification.
	// At most one Send in twenty is hedged, plus one every ten seconds. Set it above the 95th
	// percentile of the response time. 0 disables hedging.
	HedgeAfter time.Duration
	// InFlight is the maximum number of concurrent calls to a gateway; default 256. A gateway can
	// grant fewer.
	InFlight int
	// KeepaliveTimeout is how long a gateway with outstanding requests may send nothing, not even a
	// ping acknowledgement, before its connection is closed; default 1.5 s, so that a client leaves
	// a lost zone within two seconds. Use more for clients or gateways that are short of CPU, and
	// for intercontinental links.
	KeepaliveTimeout time.Duration
	// Streams is the number of gateways that a batch uses concurrently; default 4.
	Streams int
	// TLS is the configuration for https gateways; nil means the system's root certificates.
	TLS *tls.Config
	// Propagate writes the trace context of ctx to h: traceparent, tracestate, baggage.
	// OpenTelemetry's propagators do this; see the example. nil sends no trace context.
	Propagate func(ctx context.Context, h http.Header)
	// Observe is called for each event of a gateway's connections. May be nil.
	Observe func(pool.Event)
	// Logger gets the same events; nil discards them.
	Logger *slog.Logger
}

// Key is an API key. It always prints as "…".
type Key string

const hidden = "…"

// String hides the key.
func (Key) String() string { return hidden }

// GoString hides the key from %#v.
func (Key) GoString() string { return hidden }

// LogValue hides the key from slog.
func (Key) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the key from encoders.
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// check validates the configuration. An error names the field and what is allowed.
func (c *Config) check() (*resolver, error) {
	switch {
	case c.App == "" || url.PathEscape(c.App) != c.App:
		return nil, errors.New("client: Config.App must be the name of an app in the gateways' configuration")
	case !isVisibleASCII(string(c.Key)):
		return nil, errors.New("client: Config.Key must be an API key of the app (gateway key creates one)")
	case c.File == "" && len(c.Gateways) == 0, c.File != "" && len(c.Gateways) > 0:
		return nil, errors.New("client: exactly one of Config.Gateways and Config.File must be set")
	case c.Timeout < 0 || c.Attempts < 0 || c.InFlight < 0 || c.Streams < 0 || c.KeepaliveTimeout < 0 || c.HedgeAfter < 0:
		return nil, errors.New("client: numbers in Config must not be negative (0 means the default)")
	}
	r := &resolver{file: c.File}
	for i, text := range c.Gateways {
		g, err := parseGateway(text, "")
		if err != nil {
			return nil, fmt.Errorf("client: Config.Gateways[%d]: %w", i, err)
		}
		r.gateways = append(r.gateways, g)
	}
	return r, nil
}

func (c *Config) fill() {
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.Attempts = cmp.Or(c.Attempts, 5)
	c.InFlight = cmp.Or(c.InFlight, 256)
	c.KeepaliveTimeout = cmp.Or(c.KeepaliveTimeout, 1500*time.Millisecond)
	c.Streams = cmp.Or(c.Streams, 4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
