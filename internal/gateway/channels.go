// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

// channelManagers manages the broadcast channels of all apps. A manager is created on first use. A call uses the route of a
// notification, with the channel operation in place of the provider, so that it has the same limits
// and retries.
type channelManagers map[string]func() *channelManager

// channelManager manages the channels of one app.
type channelManager struct {
	environment push.Environment // of calls that name none
	provider    *apns.Provider
	routes      map[push.Environment]*delivery.Route // empty if a mock has no channel management
}

var _ api.Channels = (*Gateway)(nil)

// Manage makes one channel management call with the current configuration.
func (g *Gateway) Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt) {
	snap := g.acquire()
	defer snap.release()
	return snap.channels.Manage(ctx, call)
}

// Manage makes one channel management call.
func (c channelManagers) Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt) {
	n := &push.Notification{ID: uuid.NewString(), App: call.App, Platform: push.APNs, AcceptedAt: time.Now(), OnUnknown: push.RepeatNever}
	if call.Action == push.ListChannels || call.Action == push.ReadChannel {
		n.OnUnknown = push.RepeatAlways
	}
	create, known := c[call.App]
	if !known {
		return nil, invalidCall(n, "app", "PlatformNotConfigured", "an app that is configured for APNs")
	}
	manager := create()
	if call.Environment == "" {
		call.Environment = manager.environment
	}
	route, known := manager.routes[call.Environment]
	if !known {
		return nil, invalidCall(n, "app", "ChannelsNotConfigured", "an app that uses Apple's channel management, or a mock of it (apns.manage_url)")
	}
	operation := manager.provider.ChannelOperation(call)
	channelRoute := delivery.Route{Executor: route.Executor, Provider: operation}
	receipt := channelRoute.Send(ctx, &push.Call{Notification: n})
	return operation.Channels(), receipt
}

// invalidCall returns the receipt of an invalid call.
func invalidCall(n *push.Notification, field, reason, allowed string) push.Receipt {
	return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(&push.FieldError{Field: field, Reason: reason, Allowed: allowed})}
}
