// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Sender sends the notifications of one app on one platform. Route is a Sender; other Senders have
// a Route per environment or push service.
type Sender interface {
	// Send sends c, sets c.Receipt and returns its address.
	Send(ctx context.Context, c *push.Call) *push.Receipt
	// SendAll sends calls of one app, platform and lane, and returns when all have ended. ended gets
	// calls that have ended. It is called by several goroutines and must not keep the slice.
	SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call))
	Check(n *push.Notification) error
	// Translate returns the request for n without its credential, and sends nothing. The error of an
	// invalid notification is a *push.FieldError.
	Translate(n *push.Notification) (*wire.Request, error)
}

var (
	_ Sender = (*Route)(nil)
	_ Sender = Lazy(nil)
)

// Lazy is a Sender that Table.Sender creates on first use, so that an app that sends nothing costs
// little. It must return the same Sender each time: see sync.OnceValue.
type Lazy func() Sender

// Send implements Sender.
func (l Lazy) Send(ctx context.Context, c *push.Call) *push.Receipt { return l().Send(ctx, c) }

// SendAll implements Sender.
func (l Lazy) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	l().SendAll(ctx, calls, ended)
}

// Check implements Sender.
func (l Lazy) Check(n *push.Notification) error { return l().Check(n) }

// Translate implements Sender.
func (l Lazy) Translate(n *push.Notification) (*wire.Request, error) { return l().Translate(n) }

// Table holds the Senders by app and platform. It must not be changed after first use.
type Table map[string]map[push.Platform]Sender

// Sender returns the Sender of the app and the platform of n. If there is none, it returns a Sender that
// refuses everything and names the platforms of the app.
func (t Table) Sender(n *push.Notification) Sender {
	if sender, ok := t[n.App][n.Platform]; ok {
		if create, ok := sender.(Lazy); ok {
			return create()
		}
		return sender
	}
	var platforms []string
	for platform := range t[n.App] {
		platforms = append(platforms, strconv.Quote(string(platform)))
	}
	slices.Sort(platforms)
	allowed := "configured for this app: " + strings.Join(platforms, ", ")
	if len(platforms) == 0 {
		allowed = "configured for this app, which has no platforms"
	}
	return refusal{&push.FieldError{Field: "platform", Reason: "PlatformNotConfigured", Allowed: allowed}}
}

// Send sends n with the Sender of its app and platform.
func (t Table) Send(ctx context.Context, n *push.Notification) push.Receipt {
	return *t.Sender(n).Send(ctx, &push.Call{Notification: n})
}

// refusal is a Sender that refuses everything.
type refusal struct{ err *push.FieldError }

func (r refusal) Check(*push.Notification) error { return r.err }

func (r refusal) Translate(*push.Notification) (*wire.Request, error) { return nil, r.err }

func (r refusal) Send(_ context.Context, c *push.Call) *push.Receipt {
	return refuse(c, r.err)
}

func (r refusal) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, r.Send)
}
