// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/push"
)

// Sender sends the notifications of one app on one platform. Route is a Sender; other Senders have
// a Route per environment or push service.
type Sender interface {
	Send(ctx context.Context, n *push.Notification) push.Receipt
	// SendAll sends calls of one app, platform and lane, and returns when all have ended. ended gets
	// calls that have ended. It is called by several goroutines and must not keep the slice.
	SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call))
	Check(n *push.Notification) error
}

var _ Sender = (*Route)(nil)

// Table holds the Senders by app and platform. It must not be changed after first use.
type Table map[string]map[push.Platform]Sender

// Send sends n with the Sender of its app and platform. If there is none, it refuses n and names
// the platforms of the app.
func (t Table) Send(ctx context.Context, n *push.Notification) push.Receipt {
	sender, err := t.sender(n)
	if err != nil {
		return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(err)}
	}
	return sender.Send(ctx, n)
}

// SendAll sends calls with the Sender of their app and platform, which are the same for all.
func (t Table) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	sender, err := t.sender(calls[0].Notification)
	if err == nil {
		sender.SendAll(ctx, calls, ended)
		return
	}
	for _, c := range calls {
		c.Receipt = newReceipt(c.Notification, push.InvalidNotification(err))
	}
	ended(calls)
}

// Check validates n without sending it. The error is a *push.FieldError.
func (t Table) Check(n *push.Notification) error {
	sender, err := t.sender(n)
	if err != nil {
		return err
	}
	return sender.Check(n)
}

func (t Table) sender(n *push.Notification) (Sender, error) {
	if sender, ok := t[n.App][n.Platform]; ok {
		return sender, nil
	}
	allowed := "configured for this app, which has no platforms"
	if platforms := slices.Sorted(maps.Keys(t[n.App])); len(platforms) > 0 {
		allowed = "configured for this app: " + quoteList(platforms)
	}
	return nil, &push.FieldError{Field: "platform", Reason: "PlatformNotConfigured", Allowed: allowed}
}

func quoteList(platforms []push.Platform) string {
	quoted := make([]string, len(platforms))
	for i, p := range platforms {
		quoted[i] = fmt.Sprintf("%q", string(p))
	}
	return strings.Join(quoted, ", ")
}
