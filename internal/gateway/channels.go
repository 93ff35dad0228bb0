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

// channelManagers manages every app's broadcast channels. Each call takes the road of a notification, with what makes the call in
// the provider's place: it waits, is tried again and bounded in the same way.
type channelManagers map[string]*channelManager

// channelManager is where one app's channels are kept.
type channelManager struct {
	environment push.Environment
	provider    *apns.Provider
	routes      map[push.Environment]*delivery.Route // empty where a stand-in has none
}

var _ api.Channels = (*Gateway)(nil)

// Manage makes one call about an app's channels, by the configuration that is in force when it comes.
func (g *Gateway) Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt) {
	h := g.acquire()
	defer h.inUse.RUnlock()
	return h.channels.Manage(ctx, call)
}

// Manage makes one call about an app's channels.
func (c channelManagers) Manage(ctx context.Context, call push.ChannelCall) ([]push.Channel, push.Receipt) {
	n := &push.Notification{ID: uuid.NewString(), App: call.App, Platform: push.APNs, AcceptedAt: time.Now(), OnUnknown: push.RepeatNever}
	if call.Action == push.ListChannels || call.Action == push.ReadChannel {
		n.OnUnknown = push.RepeatAlways
	}
	home, known := c[call.App]
	if !known {
		return nil, invalidCall(n, "app", "PlatformNotConfigured", "one that is configured for APNs: channels are Apple's")
	}
	if call.Environment == "" {
		call.Environment = home.environment
	}
	route, known := home.routes[call.Environment]
	if !known {
		return nil, invalidCall(n, "app", "ChannelsNotConfigured", "one whose channels are at Apple, or whose stand-in keeps some (apns.manage_url)")
	}
	job := home.provider.ChannelOperation(call)
	road := *route
	road.Provider = job
	receipt := road.Send(ctx, n)
	return job.Channels(), receipt
}

// invalidCall is the receipt of a call that nobody can make.
func invalidCall(n *push.Notification, field, reason, allowed string) push.Receipt {
	return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(&push.FieldError{Field: field, Reason: reason, Allowed: allowed})}
}
