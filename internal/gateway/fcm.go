// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

// maxFCMStreams is the maximum number of concurrent requests on a connection to FCM, which closes a
// connection with more.
const maxFCMStreams = 100

const (
	// topicsPurpose is the purpose of the service for topic subscriptions. It has a pool and a quota of
	// its own at the URL of FCM, so that neither its load nor its failures affect notifications.
	topicsPurpose = "topics"
	// maxTopicsEndpoints limits the size of its pool: three thousand calls a second need about 150
	// streams.
	maxTopicsEndpoints = 2
	// maxTopicList is the maximum size of a page of topics in bytes: 2,000 topics with names of up to 900
	// characters, which are there twice, and the registration.
	maxTopicList = 8 << 20
)

// fcmApp is an app's access to Google's services.
type fcmApp struct {
	g            *Gateway
	name         string
	config       *config.FCM
	send, topics *service
	topicsRoute  func() *delivery.Route
}

// newFCMApp adds the services of an app.
func (b *builder) newFCMApp(name string, c *config.FCM, read *blockFiles) (*fcmApp, error) {
	if read.err != nil {
		return nil, read.err
	}
	a := &fcmApp{g: b.Gateway, name: name, config: c}
	a.topicsRoute = sync.OnceValue(func() *delivery.Route { // calls are not notifications
		return a.topics.route(a.topics.cred.fcm, &a.config.Retry, delivery.Observer{})
	})
	path := "apps." + name + ".fcm"
	want := settings{
		platform: push.FCM, base: c.URL, endpoints: joinAddrs(c.Endpoints), roots: read.roots, proxy: read.proxy, pool: c.Pool,
		budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor, maxStreams: maxFCMStreams,
	}
	var err error
	if a.send, err = b.service(path, read.cred, want, &c.Quota, read.cred.fcm); err != nil {
		return nil, err
	}
	want.purpose, want.lazy, want.pool.Size, want.maxResponse = topicsPurpose, true, min(c.Pool.Size, maxTopicsEndpoints), maxTopicList
	a.topics, err = b.service(path, read.cred, want, &config.Allowance{Rate: c.Quota.SubscriptionRate}, read.cred.fcm)
	return a, err
}

// sender returns the sender of the app's notifications.
func (a *fcmApp) sender() delivery.Sender {
	r := a.send.route(a.send.cred.fcm, &a.config.Retry, a.g.observer(a.name, push.FCM))
	r.AsksProvider = true // with validate_only
	if a.config.LearnInstallation {
		r.Replacements = a.send.open().replacements
	}
	return r
}

var _ api.Topics = (*Gateway)(nil)

// ManageTopics makes one call to the topic subscriptions of a registration with the current
// configuration. It uses the route of a notification, with the operation in place of the provider, so
// that it has the same limits and retries. A repeated call has no other effect than one.
func (g *Gateway) ManageTopics(ctx context.Context, call push.TopicCall) (push.TopicPage, push.Receipt) {
	snap := g.acquire()
	defer snap.release()
	n := &push.Notification{
		ID: uuid.NewString(), App: call.App, Platform: push.FCM, AcceptedAt: time.Now(), OnUnknown: push.RepeatAlways, Target: call.Registration,
	}
	app := snap.google[call.App]
	if app == nil {
		return push.TopicPage{}, invalidCall(n, "app", "PlatformNotConfigured", "an app that is configured for FCM")
	}
	route := app.topicsRoute()
	operation := app.topics.cred.fcm.TopicOperation(call)
	topicRoute := delivery.Route{Executor: route.Executor, Provider: operation}
	receipt := topicRoute.Send(ctx, &push.Call{Notification: n, CanQueue: true})
	return operation.Page(), *receipt
}
