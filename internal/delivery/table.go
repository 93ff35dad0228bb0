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

// Sender carries the notifications of one app and platform. A Route is one;
// another has a route for each service that its notifications name.
type Sender interface {
	Send(ctx context.Context, n *push.Notification) push.Receipt
	Check(n *push.Notification) error
}

var _ Sender = (*Route)(nil)

// Table finds who carries a notification: by app, then by platform. It is
// filled once and then only read.
type Table map[string]map[push.Platform]Sender

// Send carries n down its route. Without one it is refused, naming what the
// app is configured for.
func (t Table) Send(ctx context.Context, n *push.Notification) push.Receipt {
	route, err := t.route(n)
	if err != nil {
		return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(err)}
	}
	return route.Send(ctx, n)
}

// Check tells whether n has a route and could be sent on it as it is. Its
// error is a *push.FieldError.
func (t Table) Check(n *push.Notification) error {
	route, err := t.route(n)
	if err != nil {
		return err
	}
	return route.Check(n)
}

func (t Table) route(n *push.Notification) (Sender, error) {
	if route, ok := t[n.App][n.Platform]; ok {
		return route, nil
	}
	allowed := "sent by an app that has a platform configured; this one has none"
	if platforms := slices.Sorted(maps.Keys(t[n.App])); len(platforms) > 0 {
		allowed = "one that this app is configured for: " + quoteList(platforms)
	}
	return nil, &push.FieldError{Field: "platform", Reason: "PlatformNotConfigured", Allowed: allowed}
}

func quoteList(platforms []push.Platform) string {
	words := make([]string, len(platforms))
	for i, p := range platforms {
		words[i] = fmt.Sprintf("%q", string(p))
	}
	return strings.Join(words, ", ")
}
