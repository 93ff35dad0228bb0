// SPDX-License-Identifier: Apache-2.0

// Package providertest is the conformance test suite for providers. It also loads recorded requests
// and responses of the real services. It contains no mock services: each provider's tests have
// their own.
package providertest

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Provider is the interface of a provider.
type Provider interface {
	Translate(n *push.Notification) (*wire.Request, error)
	Sign(ctx context.Context, n *push.Notification) (field wire.Field, used any, failed *push.Outcome)
	Judge(n *push.Notification, used any, response *wire.Response, err error) push.Outcome
}

// Send makes one attempt with the methods of p, as the gateway does: it signs r, the result of
// Translate, sends it on conn and judges the response.
func Send(ctx context.Context, p Provider, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome {
	field, used, failed := p.Sign(ctx, n)
	if failed != nil {
		return *failed
	}
	signed := *r
	if field.Name != "" {
		signed.Header = append(slices.Clip(r.Header), field)
	}
	response, err := conn.Do(ctx, &signed)
	return p.Judge(n, used, response, err)
}

// Suite describes a provider to the tests. All fields except Secrets and ExpiredResponse are
// required.
type Suite struct {
	// New returns a new provider that logs to log. It is called inside a testing/synctest bubble.
	New func(t *testing.T, log *slog.Logger) Provider
	// Notification returns a valid notification with a title. Every call returns the same one.
	Notification func() *push.Notification
	// Secrets are texts that may appear only in requests, such as keys passed to New. The target
	// and texts of the notification are checked too.
	Secrets []string
	// Rows is the complete error table of the service.
	Rows []Row
	// ReadTitle returns the title that a device reads from a request.
	ReadTitle func(t *testing.T, r *wire.Request) string
	// FillPayload returns a notification whose payload consists of text repeated to size bytes,
	// counted as the service counts them. PayloadLimit is the maximum size.
	FillPayload  func(text string, size int) *push.Notification
	PayloadLimit int
	// ExpiredResponse is the response to an expired credential after it was in use for
	// CredentialAge. The provider must then renew it. A zero status means that its credentials do
	// not expire.
	ExpiredResponse wire.Response
	CredentialAge   time.Duration
}

// Row is a response and the expected outcome.
type Row struct {
	Name     string
	Response wire.Response
	// CredentialAge is the age of the credential; zero means new.
	CredentialAge time.Duration
	// Target is the notification's target; zero means that of Suite.Notification.
	Target        push.Target
	Verdict       push.Verdict
	Retryable     bool
	EndpointFault bool
	ForgetToken   bool
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Suite)
	}{
		{"error table", testRows},
		{"malformed responses", testMalformedResponses},
		{"no response", testNoResponse},
		{"cancellation", testCancellation},
		{"one request per attempt", testSharedRequest},
		{"credential renewal", testCredentialRenewal},
		{"payload limit", testPayloadLimit},
		{"text round trip", testTextRoundTrip},
		{"invalid targets", testInvalidTargets},
		{"errors contain no secret", testErrorsHoldNoSecret},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

// run runs test in a synctest bubble, and checks that the log contains no secret.
func (s Suite) run(t *testing.T, name string, test func(t *testing.T, p Provider)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := &logBuffer{}
			test(t, s.New(t, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
			s.checkNoSecret(t, "the log", log.text())
		})
	})
}

// fakeService is a connection that calls a function for every request.
type fakeService func(context.Context, *wire.Request) (*wire.Response, error)

func (s fakeService) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	return s(ctx, r)
}

func respond(a wire.Response) fakeService {
	return func(context.Context, *wire.Request) (*wire.Response, error) { return &a, nil }
}

// send makes one attempt.
func send(t *testing.T, p Provider, conn wire.Doer, n *push.Notification) push.Outcome {
	t.Helper()
	r, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return Send(t.Context(), p, conn, n, r)
}
