// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

var _ api.Channels = (*Gateway)(nil)

// Manage makes one channel management call with the current configuration. It uses the route of a
// notification, with the channel operation in place of the provider, so that it has the same limits
// and retries.
func (g *Gateway) Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt) {
	snap := g.acquire()
	defer snap.release()
	n := &push.Notification{ID: uuid.NewString(), App: call.App, Platform: push.APNs, AcceptedAt: time.Now(), OnUnknown: push.RepeatNever}
	if call.Action == push.ListChannels || call.Action == push.ReadChannel {
		n.OnUnknown = push.RepeatAlways
	}
	app := snap.apple[call.App]
	if app == nil {
		return nil, invalidCall(n, "app", "PlatformNotConfigured", "an app that is configured for APNs")
	}
	call.Environment = cmp.Or(call.Environment, push.Environment(app.config.Environment))
	route := app.manageRoutes()[call.Environment]
	if route == nil {
		return nil, invalidCall(n, "app", "ChannelsNotConfigured", "an app that uses Apple's channel management, or a mock of it (apns.manage_url)")
	}
	operation := app.provider.ChannelOperation(call)
	channelRoute := delivery.Route{Executor: route.Executor, Provider: operation}
	receipt := channelRoute.Send(ctx, &push.Call{Notification: n})
	return operation.Channels(), *receipt
}

// invalidCall returns the receipt of an invalid call.
func invalidCall(n *push.Notification, field, reason, allowed string) push.Receipt {
	return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(&push.FieldError{Field: field, Reason: reason, Allowed: allowed})}
}
