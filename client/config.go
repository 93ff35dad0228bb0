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
	maxGateways           = 1024             // that a client is connected to
	maxRedialDelay        = 10 * time.Second // at most, to one that did not answer
	defaultAttemptTimeout = time.Minute      // with a gateway that does not tell its own longest
)

// Config says whom a client speaks for and where the gateways are. Gateways or File, App and Key are required.
type Config struct {
	// Gateways are base URLs: http://host:port (HTTP/2 without TLS) or https://host. A name with several addresses is as
	// many gateways, and is looked up again and again.
	Gateways []string
	// File names a file with the gateways in their stead: a URL on each line, and behind it the zone if the gateway does
	// not tell; "#" begins a comment. It is read again when it changes. A file that cannot be read leaves things as they
	// are.
	File string
	// App is whose notifications they are.
	App string
	// Key is an API key of the app.
	Key Key
	// Zone is where this client runs. Gateways that say they are there are preferred while they can bear it; empty prefers
	// nobody.
	Zone string
	// Timeout is for a call whose context has no deadline; default 30 s.
	Timeout time.Duration
	// Attempts is how many gateways are asked at most, while none has sent anything; default 3.
	Attempts int
	// HedgeAfter is how long one gateway alone is asked by a Send: another is asked for the same then, and the first verdict
	// of the two is the end. Only gateways that share their Idempotency-Keys are asked so (queue.nats.url: a cluster), for
	// there it is sent once whoever gets to it; and no more than one Send in twenty is, and one in ten seconds. Make it
	// more than 95 in 100 take. 0 never asks another.
	HedgeAfter time.Duration
	// InFlight is how many calls a gateway is given at a time, or less if it grants less; default 256.
	InFlight int
	// Silence is how long a gateway that owes an answer may say nothing at all, not even to a ping, before it is given up;
	// default 1.5 s, so that a lost zone is left within two. More suits callers or gateways that are short of CPU, and links across an ocean.
	KeepaliveTimeout time.Duration
	// Streams is how many gateways a batch is spread over at a time; default 4.
	Streams int
	// TLS is for https gateways; nil means the system's roots.
	TLS *tls.Config
	// Propagate writes the trace that ctx belongs to into h: traceparent, tracestate, baggage. OpenTelemetry's propagators
	// do it; see the example. nil sends no trace.
	Propagate func(ctx context.Context, h http.Header)
	// Observe is told what happens to the gateways, one by one. May be nil.
	Observe func(pool.Event)
	// Logger gets the same; nil discards it.
	Logger *slog.Logger
}

// Key is an API key. It prints as "…", whoever prints it and how.
type Key string

const hidden = "…"

// String hides the key.
func (Key) String() string { return hidden }

// GoString hides it from %#v.
func (Key) GoString() string { return hidden }

// LogValue hides it from slog.
func (Key) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides it from encoders.
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// check refuses what cannot work, naming the field and what is allowed.
func (c *Config) check() (*resolver, error) {
	switch {
	case c.App == "" || url.PathEscape(c.App) != c.App:
		return nil, errors.New("client: Config.App must be the name of an app in the gateways' configuration")
	case !isVisibleASCII(string(c.Key)):
		return nil, errors.New("client: Config.Key must be an API key of the app (gateway key makes one)")
	case c.File == "" && len(c.Gateways) == 0, c.File != "" && len(c.Gateways) > 0:
		return nil, errors.New("client: one of Config.Gateways and Config.File must say where the gateways are")
	case c.Timeout < 0 || c.Attempts < 0 || c.InFlight < 0 || c.Streams < 0 || c.KeepaliveTimeout < 0 || c.HedgeAfter < 0:
		return nil, errors.New("client: no number in Config may be negative (0 means the default)")
	}
	f := &resolver{file: c.File}
	for i, text := range c.Gateways {
		g, err := parseGateway(text, "")
		if err != nil {
			return nil, fmt.Errorf("client: Config.Gateways[%d]: %w", i, err)
		}
		f.gateways = append(f.gateways, g)
	}
	return f, nil
}

func (c *Config) fill() {
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.Attempts = cmp.Or(c.Attempts, 3)
	c.InFlight = cmp.Or(c.InFlight, 256)
	c.KeepaliveTimeout = cmp.Or(c.KeepaliveTimeout, 1500*time.Millisecond)
	c.Streams = cmp.Or(c.Streams, 4)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
