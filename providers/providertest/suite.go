// SPDX-License-Identifier: Apache-2.0

// Package providertest is what every provider must be able to show, as one suite of tests: a provider passes by being
// handed to it; and what was recorded of the real services. It plays no service: that is for each provider's own tests.
package providertest

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Provider is what delivery asks of a provider.
type Provider interface {
	Translate(n *push.Notification) (*wire.Request, error)
	Send(ctx context.Context, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome
}

// Suite describes a provider to the tests. All but Secrets and Expired is required.
type Suite struct {
	// New returns a new provider that logs to log, if it logs. It is called within a bubble of testing/synctest.
	New func(t *testing.T, log *slog.Logger) Provider
	// Notification returns a notification that the service takes, with a title, always the same.
	Notification func() *push.Notification
	// Secrets are texts that must show nowhere but in a request: keys, and whatever else New was given. The
	// notification's target and texts are looked for besides.
	Secrets []string
	// Rows is the whole table of what the service answers.
	Rows []Row
	// Shown returns the title that a device would read in a request.
	ReadTitle func(t *testing.T, r *wire.Request) string
	// Filled returns a notification whose payload is filled with text to a size in bytes, by the service's own way of
	// counting, and Limit is the greatest that it takes.
	FillPayload  func(text string, size int) *push.Notification
	PayloadLimit int
	// Expired is the answer to a credential that is over, once it has served for Age: the provider then has another
	// one to try. A zero status means that its credentials do not end.
	ExpiredResponse wire.Response
	CredentialAge   time.Duration
}

// Row is an answer and what must come of it.
type Row struct {
	Name     string
	Response wire.Response
	// After is how long the credential has served; zero is new.
	CredentialAge time.Duration
	// Target is whom the notification was for; zero is the suite's own.
	Target        push.Target
	Verdict       push.Verdict
	Retryable     bool
	EndpointFault bool
	ForgetToken   bool
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	for _, part := range []struct {
		name string
		run  func(*testing.T, Suite)
	}{
		{"every row of the table is judged as it says", testRows},
		{"no answer makes it panic or repeat what it was sent", testMalformedResponses},
		{"silence is judged by what the connection knows", testNoResponse},
		{"a caller who leaves is nobody's fault", testCancellation},
		{"one send is one request, and leaves the shared one alone", testSharedRequest},
		{"a credential that is over is replaced", testCredentialRenewal},
		{"the payload's limit is exact", testPayloadLimit},
		{"every text arrives as it was written", testTextRoundTrip},
		{"a target that it does not know is refused", testInvalidTargets},
		{"a refusal repeats nothing", testErrorsHoldNoSecret},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, s) })
	}
}

// run runs a test on time that costs nothing, and looks through what was logged meanwhile.
func (s Suite) run(t *testing.T, name string, test func(t *testing.T, p Provider)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := &logBuffer{}
			test(t, s.New(t, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
			s.checkNoSecret(t, "the log", log.text())
		})
	})
}

// fakeService answers every request with one function; it stands where a connection does.
type fakeService func(context.Context, *wire.Request) (*wire.Response, error)

func (s fakeService) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	return s(ctx, r)
}

func respond(a wire.Response) fakeService {
	return func(context.Context, *wire.Request) (*wire.Response, error) { return &a, nil }
}

// send makes one attempt at n.
func send(t *testing.T, p Provider, on wire.Doer, n *push.Notification) push.Outcome {
	t.Helper()
	r, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return p.Send(t.Context(), on, n, r)
}
