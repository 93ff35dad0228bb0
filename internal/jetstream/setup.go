// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

const (
	defaultSetupTimeout = time.Minute
	setupInterval       = 500 * time.Millisecond
)

// Stream creates or updates a stream with the engine's number of replicas. In a cluster it disables
// direct reads: only the leader has every acknowledged message.
func (e *Engine) Stream(ctx context.Context, cfg natsjs.StreamConfig) (stream natsjs.Stream, err error) {
	cfg.Replicas = e.Replicas()
	cfg.AllowDirect = cfg.AllowDirect && e.Embedded()
	err = e.Setup(ctx, "stream "+cfg.Name, func(ctx context.Context) (err error) {
		if err := e.keepMark(ctx, &cfg); err != nil {
			return err
		}
		stream, err = e.js.CreateOrUpdateStream(ctx, cfg)
		return err
	})
	return stream, err
}

// Setup runs one step of the setup, which must be idempotent. A step on a cluster is repeated until
// SetupTimeout after the start, because a cluster that has just started, or that elects a leader,
// refuses or ignores requests.
func (e *Engine) Setup(ctx context.Context, step string, run func(context.Context) error) error {
	for warned := false; ; {
		tryCtx := ctx
		if e.Embedded() { // a server that is stopped while it creates a stream does not stop that stream
			tryCtx = context.WithoutCancel(ctx)
		}
		tryCtx, done := context.WithTimeout(tryCtx, apiTimeout)
		err := run(tryCtx)
		done()
		switch {
		case err == nil:
			if warned {
				e.cfg.Logger.Info("NATS is ready", "step", step)
			}
			return nil
		case ctx.Err() != nil, e.Embedded(), isPermanent(err), time.Until(e.setupDeadline) < 0:
			return fmt.Errorf("jetstream: %s: %w", step, err)
		case !warned:
			warned = true
			e.cfg.Logger.Warn("NATS is not ready; retrying", "step", step, "for", time.Until(e.setupDeadline).Round(time.Second).String(), "err", err)
		}
		select {
		case <-time.After(setupInterval):
		case <-ctx.Done():
		}
	}
}

// Errors of the server that do not end by themselves, in addition to most of those with status 400.
const (
	errMemoryResources  natsjs.ErrorCode = 10028
	errStorageResources natsjs.ErrorCode = 10047
	errInvalidConfig    natsjs.ErrorCode = 10052
	errReplicas         natsjs.ErrorCode = 10074
	// These have status 400, but end when all servers know each other, and when another gateway has
	// created the stream that this one then updates.
	errNoPeers natsjs.ErrorCode = 10005
)

// isPermanent reports whether a step of the setup fails in the same way when it is repeated.
func isPermanent(err error) bool {
	if api, ok := errors.AsType[natsjs.JetStreamError](err); ok && api.APIError() != nil {
		switch e := api.APIError(); e.ErrorCode {
		case errMemoryResources, errStorageResources, errInvalidConfig, errReplicas, natsjs.JSErrCodeJetStreamNotEnabledForAccount:
			return true
		case errNoPeers, natsjs.JSErrCodeStreamNameInUse:
			return false
		default:
			return e.Code == 400
		}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return true
	}
	return slices.ContainsFunc([]error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrSecureConnRequired, nats.ErrSecureConnWanted},
		func(permanent error) bool { return errors.Is(err, permanent) })
}
