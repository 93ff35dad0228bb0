// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func testRows(t *testing.T, s Suite) {
	if len(s.Rows) == 0 {
		t.Fatal("the suite has no rows")
	}
	for _, row := range s.Rows {
		s.run(t, row.Name, func(t *testing.T, p Provider) {
			if row.CredentialAge > 0 {
				send(t, p, respond(wire.Response{Status: 200}), s.Notification())
				time.Sleep(row.CredentialAge)
			}
			n := s.Notification()
			if row.Target.Kind() != push.NoTarget {
				n.Target = row.Target
			}
			o := send(t, p, respond(row.Response), n)
			if o.Verdict != row.Verdict || o.Retryable() != row.Retryable || o.EndpointFault() != row.EndpointFault || o.ForgetToken != row.ForgetToken {
				t.Errorf("%+v (retryable %t, endpoint fault %t), want %+v", o, o.Retryable(), o.EndpointFault(), row)
			}
			s.checkOutcome(t, row.Response.Status, o)
		})
	}
}

// checkOutcome checks the invariants of every outcome with a response.
func (s Suite) checkOutcome(t *testing.T, status int, o push.Outcome) {
	t.Helper()
	s.checkNoSecret(t, "the outcome", fmt.Sprintf("%+v", o))
	switch {
	case o.HTTP != status:
		t.Errorf("HTTP is %d, want %d", o.HTTP, status)
	case o.Verdict == push.Unsent || o.Verdict == push.Abandoned || o.Verdict == push.Expired:
		t.Errorf("verdict %s for a response with status %d", o.Verdict, status)
	case o.Verdict == push.Accepted && status/100 != 2, status/100 == 2 && o.Verdict != push.Accepted && o.Verdict != push.Unavailable:
		t.Errorf("verdict %s for status %d", o.Verdict, status)
	case o.Verdict != push.Accepted && (o.Reason == "" || len(o.Reason) > 64):
		t.Errorf("reason %q, want one of a closed set", o.Reason)
	case o.Verdict == push.Throttled && o.RetryAfter <= 0:
		t.Error("Throttled without RetryAfter")
	case o.ForgetToken && o.Verdict != push.Unregistered && o.Verdict != push.Refused:
		t.Errorf("ForgetToken with verdict %s", o.Verdict)
	}
}

func testMalformedResponses(t *testing.T, s Suite) {
	secret := strings.Join(s.secrets(), " ")
	bodies := []string{
		"", "{", "null", "[]", "7", `"x"`, "{}", "<html>502 Bad Gateway</html>", strings.Repeat(`{"a":`, 10_000), "\xff\xfe", strings.Repeat("x", 1<<16), secret,
		fmt.Sprintf(`{"reason":%q,"error":{"status":%[1]q,"message":%[1]q,"details":[{"@type":"x/google.firebase.fcm.v1.FcmError","errorCode":%[1]q}]}}`, secret),
		`{"reason":{},"errno":"x","error":[],"timestamp":-1}`, `{"error":{"details":[null,7,{}]}}`,
	}
	s.run(t, "every status", func(t *testing.T, p Provider) {
		n := s.Notification()
		for status := 200; status < 600; status++ {
			for _, body := range bodies {
				fields := []wire.Field{{Name: "retry-after", Value: "soon"}, {Name: "location", Value: n.Key()}, {Name: "apns-id", Value: secret}}
				s.checkOutcome(t, status, send(t, p, respond(wire.Response{Status: status, Body: []byte(body), Header: fields}), n))
			}
		}
	})
}

func testNoResponse(t *testing.T, s Suite) {
	for _, lost := range []*wire.Error{
		{Reason: wire.ConnectRefused, Processed: wire.Never, EndpointAtFault: true}, {Reason: wire.RefusedStream, Processed: wire.Never},
		{Reason: wire.GoAwayUnprocessed, Processed: wire.Never}, {Reason: wire.ResponseTimeout, EndpointAtFault: true},
		{Reason: wire.LostAfterWrite, EndpointAtFault: true}, {Reason: wire.ResetInternal, EndpointAtFault: true}, {Reason: wire.QueueFull, Processed: wire.Never},
	} {
		s.run(t, string(lost.Reason), func(t *testing.T, p Provider) {
			o := send(t, p, fakeService(func(context.Context, *wire.Request) (*wire.Response, error) { return nil, lost }), s.Notification())
			if want := push.NoResponse(lost); o != want {
				t.Errorf("%+v, want %+v", o, want)
			}
		})
	}
}

// testCancellation checks that the provider passes the context on, and that neither cancellation
// nor a deadline counts against the endpoint.
func testCancellation(t *testing.T, s Suite) {
	waiting := fakeService(func(ctx context.Context, _ *wire.Request) (*wire.Response, error) {
		<-ctx.Done()
		return nil, &wire.Error{Reason: wire.Canceled, Err: ctx.Err()}
	})
	for name, cancelLater := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"cancelled": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		},
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		},
	} {
		s.run(t, name, func(t *testing.T, p Provider) {
			ctx, cancel := cancelLater(t.Context())
			defer cancel()
			n, began := s.Notification(), time.Now()
			r, err := p.Translate(n)
			if err != nil {
				t.Fatal(err)
			}
			o := Send(ctx, p, waiting, n, r)
			if o.EndpointFault() || o.EndpointOK() || o.HTTP != 0 || o.Verdict != push.Unknown {
				t.Errorf("%+v", o)
			}
			if took := time.Since(began); took != time.Second {
				t.Errorf("Send returned after %s, want 1s", took)
			}
		})
	}
}

func testSharedRequest(t *testing.T, s Suite) {
	s.run(t, "concurrent", func(t *testing.T, p Provider) {
		n := s.Notification()
		r, err := p.Translate(n)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = append(r.Header, wire.Field{})[:len(r.Header)] // with spare capacity
		before := fmt.Sprint(*r, r.Header[:cap(r.Header)])
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				requests := 0
				Send(t.Context(), p, fakeService(func(context.Context, *wire.Request) (*wire.Response, error) {
					requests++
					return &wire.Response{Status: 503}, nil
				}), n, r)
				if requests != 1 {
					t.Errorf("%d requests for one attempt", requests)
				}
			})
		}
		all.Wait()
		if fmt.Sprint(*r, r.Header[:cap(r.Header)]) != before {
			t.Error("the shared request was modified")
		}
	})
}

func testCredentialRenewal(t *testing.T, s Suite) {
	if s.ExpiredResponse.Status == 0 {
		t.Skip("credentials of this provider do not expire")
	}
	s.run(t, "renewed once", func(t *testing.T, p Provider) {
		var mu sync.Mutex
		seen := map[string]bool{}
		record := func(a wire.Response) fakeService {
			return func(_ context.Context, r *wire.Request) (*wire.Response, error) {
				time.Sleep(time.Second) // so that all requests are sent before the first response
				mu.Lock()
				defer mu.Unlock()
				seen[authorizationOf(r)] = true
				return &a, nil
			}
		}
		send(t, p, record(wire.Response{Status: 200}), s.Notification())
		time.Sleep(s.CredentialAge)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if o := send(t, p, record(s.ExpiredResponse), s.Notification()); o.Verdict != push.Unauthorized || !o.Renewed || o.EndpointFault() {
					t.Errorf("%+v", o)
				}
			})
		}
		all.Wait()
		send(t, p, record(wire.Response{Status: 200}), s.Notification())
		if len(seen) != 2 {
			t.Errorf("%d credentials, want 2", len(seen))
		}
	})
}

// sampleTexts are characters of one to four bytes, of several runes, and right to left.
var sampleTexts = []string{"a", "é", "値", "🚀", "👩‍👩‍👧", "ש", "م"}

func testPayloadLimit(t *testing.T, s Suite) {
	for _, text := range sampleTexts {
		s.run(t, text, func(t *testing.T, p Provider) {
			if _, err := p.Translate(s.FillPayload(text, s.PayloadLimit)); err != nil {
				t.Errorf("payload of %d bytes is refused: %v", s.PayloadLimit, err)
			}
			_, err := p.Translate(s.FillPayload(text, s.PayloadLimit+1))
			if fieldErr, ok := errors.AsType[*push.FieldError](err); !ok || fieldErr.Reason != "PayloadTooLarge" || !strings.Contains(fieldErr.Allowed, fmt.Sprint(s.PayloadLimit)) {
				t.Errorf("payload that is one byte too large: %v", err)
			}
		})
	}
}

func testTextRoundTrip(t *testing.T, s Suite) {
	for _, text := range append(sampleTexts, `"\/`, "a\nb\tc\x01", "\u2028\u2029\u0000", "\ufeffx", "<script>&amp;", "\U0010ffff") {
		s.run(t, fmt.Sprintf("%q", text), func(t *testing.T, p Provider) {
			n := s.Notification()
			n.Title = text
			r, err := p.Translate(n)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.ReadTitle(t, r); got != text {
				t.Errorf("the device reads %q", got)
			}
		})
	}
}

func testInvalidTargets(t *testing.T, s Suite) {
	kind := s.Notification().Kind()
	for _, target := range []push.Target{{}, {Token: "\x00../"}, {Topic: "a/b"}, {Condition: "'"}, {Channel: "\n"}, {Installation: "?"}, {Subscription: &push.Subscription{}}} {
		s.run(t, fmt.Sprintf("kind %d for %d", target.Kind(), kind), func(t *testing.T, p Provider) {
			n := s.Notification()
			n.Target = target
			_, err := p.Translate(n)
			if fieldErr, ok := errors.AsType[*push.FieldError](err); !ok || fieldErr.Reason != "InvalidTarget" {
				t.Errorf("%v, want a *push.FieldError InvalidTarget", err)
			}
		})
	}
}

func testErrorsHoldNoSecret(t *testing.T, s Suite) {
	for name, n := range s.invalidNotifications() {
		s.run(t, name, func(t *testing.T, p Provider) {
			_, err := p.Translate(n)
			fieldErr, ok := errors.AsType[*push.FieldError](err)
			if !ok || fieldErr.Field == "" || fieldErr.Allowed == "" || fieldErr.Reason == "" {
				t.Fatalf("%v, want a complete *push.FieldError", err)
			}
			s.checkNoSecret(t, "the error", err.Error())
		})
	}
}
