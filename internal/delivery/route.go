// SPDX-License-Identifier: Apache-2.0

// Package delivery sends notifications. An Executor makes the attempts at one notification until it
// has a final outcome. A Route sends with an Executor and the protocol of a Provider.
package delivery

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Provider implements the protocol of one push service. It holds no connections.
type Provider interface {
	// Translate validates n and returns the request of the service without the credential. The
	// error of an invalid notification is a *push.FieldError. What it does not recognize in the
	// provider-specific block it passes on, with a call of n.Warn. Requests do not share the spare
	// capacity of a header.
	Translate(n *push.Notification) (*wire.Request, error)
	// Sign returns the header field that authorizes the request for n, with an empty name if it needs
	// none. used is passed to Judge. If there is no credential, failed is the outcome of the attempt.
	Sign(ctx context.Context, n *push.Notification) (field wire.Field, used any, failed *push.Outcome)
	// Judge returns the outcome of an attempt that ended with a response or with an error of a
	// wire.Doer.
	Judge(n *push.Notification, used any, response *wire.Response, err error) push.Outcome
}

// Retargeter is a Provider that can derive a request from that for the same content to another target,
// at a lower cost than Translate.
type Retargeter interface {
	Provider
	// Retarget returns what Translate would return for n. request is that for like, from which n
	// differs only in its ID and target.
	Retarget(request *wire.Request, like, n *push.Notification) (*wire.Request, error)
}

// Route sends the notifications of one app on one platform. Provider and Executor are required. A
// Route may be used by multiple goroutines and must not be changed after first use.
type Route struct {
	*Executor
	Provider Provider
	// Unregistered caches unregistered tokens; nil sends to them again.
	Unregistered *UnregisteredCache
	// Replacements caches tokens with a replacement; nil tries none. The Provider must be a Replacer.
	Replacements *ReplacementCache
	// AsksProvider is set if the requests for dry runs make the service validate and not deliver. Other
	// dry runs end before the first attempt.
	AsksProvider bool
}

// Send implements Sender. It returns when there is a final outcome. No wait in Send exceeds ctx's
// deadline, and all waits end when ctx does.
func (r *Route) Send(ctx context.Context, c *push.Call) *push.Receipt {
	start := time.Now()
	if !r.sendReplaced(ctx, c) {
		r.send(ctx, c, 0)
		r.tryReplacement(ctx, c)
	}
	r.Observer.ended(c, start)
	return &c.Receipt
}

// send is Send without the Ended callback. prior is the number of earlier attempts at c on other
// routes.
func (r *Route) send(ctx context.Context, c *push.Call, prior int) {
	request, err := r.Translate(c.Notification)
	if o := r.endWithoutAttempt(ctx, c.Notification, err); o != nil {
		setReceipt(c, o)
		return
	}
	x := execution{Executor: r.Executor, Call: c, makeAttempt: r.attempt(c.Notification, request), prior: prior}
	x.run(ctx)
}

// attempt returns the Attempt that sends the request for n.
func (r *Route) attempt(n *push.Notification, request *wire.Request) Attempt {
	return func(ctx context.Context, lease *pool.Lease) push.Outcome {
		field, used, failed := r.Provider.Sign(ctx, n)
		if failed != nil {
			return *failed
		}
		response, err := lease.Do(ctx, sign(request, field))
		o := r.Provider.Judge(n, used, response, err)
		r.Unregistered.record(n, &o)
		return o
	}
}

// sign returns a copy of r with a further header field, unless its name is empty. It may use the spare
// capacity of the header: the attempts at a notification follow each other.
func sign(r *wire.Request, f wire.Field) *wire.Request {
	signed := *r
	if f.Name != "" {
		signed.Header = append(r.Header, f)
	}
	return &signed
}

// Check validates n without sending it. The error of an invalid notification is a *push.FieldError.
func (r *Route) Check(n *push.Notification) error {
	_, err := r.Translate(n)
	return err
}

// Translate returns the provider's request for n with the attempt timeout, without the credential.
func (r *Route) Translate(n *push.Notification) (*wire.Request, error) {
	n.Warnings = nil // those of an earlier validation
	return r.makeRequest(n, func() (*wire.Request, error) { return r.Provider.Translate(n) })
}

// translateLike is translate for a call that follows last. If both have the same content, it is not
// validated and translated again.
func (r *Route) translateLike(last item, c *push.Call) (*wire.Request, error) {
	provider, ok := r.Provider.(Retargeter)
	if !ok || c.Content == nil || last.Call == nil || last.Content != c.Content {
		return r.Translate(c.Notification)
	}
	c.Warnings = slices.Clip(last.Warnings)
	return r.makeRequest(c.Notification, func() (*wire.Request, error) {
		return provider.Retarget(last.request, last.Notification, c.Notification)
	})
}

// makeRequest calls translate, which makes the request for n, and adds the attempt timeout.
func (r *Route) makeRequest(n *push.Notification, translate func() (*wire.Request, error)) (request *wire.Request, err error) {
	defer r.recoverPanic(n, func(push.Outcome) { err = errProviderPanic })
	if request, err = translate(); err != nil {
		return nil, err
	}
	request.Timeout = r.Retry.Timeout()
	return request, nil
}

var errProviderPanic = errors.New("delivery: provider panicked (see the log for the stack)")

// endWithoutAttempt returns the outcome of n if it needs no attempt: its translation has failed with
// err, its token is known to be unregistered, or it is a dry run that does not ask the provider.
// Otherwise it returns nil.
func (r *Route) endWithoutAttempt(ctx context.Context, n *push.Notification, err error) *push.Outcome {
	switch {
	case errors.Is(err, errProviderPanic):
		return &push.Outcome{Reason: reasonProviderPanic}
	case err != nil:
		o := push.InvalidNotification(err)
		return &o
	}
	if known := r.Unregistered.get(n); known != nil || !n.DryRun || r.AsksProvider {
		return known
	}
	return r.endDryRun(ctx, n)
}

// endDryRun returns the outcome of a dry run that does not ask the provider. Only the credential is left
// to check.
func (r *Route) endDryRun(ctx context.Context, n *push.Notification) (o *push.Outcome) {
	defer r.recoverPanic(n, func(push.Outcome) { o = &push.Outcome{Reason: reasonProviderPanic} })
	if _, _, failed := r.Provider.Sign(ctx, n); failed != nil {
		return failed
	}
	return &push.Outcome{Verdict: push.Accepted}
}
