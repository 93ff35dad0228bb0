// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"sync"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

// apnsEnvironments are Apple's services for notifications and for channel management.
var apnsEnvironments = [...]struct {
	name           push.Environment
	url, manageURL config.Base
}{
	{push.Production, "https://api.push.apple.com", "https://api-manage-broadcast.push.apple.com:2196"},
	{push.Sandbox, "https://api.sandbox.push.apple.com", "https://api-manage-broadcast.sandbox.push.apple.com:2195"},
}

// maxChannelList is the maximum size of a list of channels in bytes: 10,000 IDs of up to 200
// characters, quoted.
const maxChannelList = 4 << 20

// maxManageEndpoints limits the pool size for channel management, which has few calls.
const maxManageEndpoints = 2

// noQuota is the quota of channel management.
var noQuota config.Allowance

// apnsApp is an app's access to Apple's services. Those of the environment that is not the app's
// default, and those for channel management, are secondary.
type apnsApp struct {
	g            *Gateway
	name, path   string // path is that of the configuration block
	config       *config.APNs
	provider     *apns.Provider
	send, manage [len(apnsEnvironments)]*service // by index of the environment; nil if there is none
	manageRoutes func() map[push.Environment]*delivery.Route
}

// newAPNsApp adds the service that an app uses by default. addSecondary adds the others.
func (b *builder) newAPNsApp(name string, c *config.APNs, read *blockFiles) (*apnsApp, error) {
	if read.err != nil {
		return nil, read.err
	}
	a := &apnsApp{g: b.Gateway, name: name, path: "apps." + name + ".apns", config: c}
	a.manageRoutes = sync.OnceValue(a.newManageRoutes)
	var err error
	if a.provider, err = apns.New(apns.Config{Topic: c.Topic, Signer: read.cred.signer}); err != nil {
		return nil, keyError(a.path, "topic", err)
	}
	for i, env := range apnsEnvironments {
		if string(env.name) == c.Environment || c.URL != "" { // with a URL, one service for both
			a.send[i], err = b.service(a.path, read.cred, a.settings(read, env.url), &c.Quota, a.provider)
		}
	}
	return a, err
}

// addSecondary adds the secondary services of an app.
func (b *builder) addSecondary(a *apnsApp, read *blockFiles) {
	add := func(want settings, allowance *config.Allowance) *service {
		want.lazy = true
		s, err := b.service(a.path, read.cred, want, allowance, a.provider)
		if err != nil {
			b.errs = append(b.errs, err)
		}
		return s
	}
	c := a.config
	for i, env := range apnsEnvironments {
		want := a.settings(read, env.url)
		if a.send[i] == nil {
			a.send[i] = add(want, &c.Quota)
		}
		want.base = c.ManageURL
		if want.base == "" && c.URL == "" && len(c.Endpoints) == 0 {
			want.base = env.manageURL
		}
		want.endpoints, want.pool.Size, want.maxResponse = "", min(c.Pool.Size, maxManageEndpoints), maxChannelList
		if want.base != "" {
			a.manage[i] = add(want, &noQuota)
		}
	}
}

// settings returns the settings of a service for notifications.
func (a *apnsApp) settings(read *blockFiles, base config.Base) settings {
	c := a.config
	return settings{
		platform: push.APNs, base: cmp.Or(c.URL, base), endpoints: joinAddrs(c.Endpoints), roots: read.roots, proxy: read.proxy, pool: c.Pool,
		budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor, serializeFirst: read.cred.cert == nil,
	}
}

// sender returns the sender of the app's notifications.
func (a *apnsApp) sender() delivery.Sender {
	e := &delivery.Environments{Default: push.Environment(a.config.Environment), Routes: map[push.Environment]*delivery.Route{}}
	observer := a.g.observer(a.name, push.APNs)
	for i, env := range apnsEnvironments {
		if i > 0 && a.config.URL != "" {
			e.Routes[env.name] = e.Routes[apnsEnvironments[0].name]
			continue
		}
		e.Routes[env.name] = a.route(i, a.send[i], observer)
		if a.config.LearnEnvironment && env.name == e.Default {
			e.Cache = a.send[i].open().environments
		}
	}
	return e
}

// newManageRoutes returns the routes for channel management.
func (a *apnsApp) newManageRoutes() map[push.Environment]*delivery.Route {
	routes := map[push.Environment]*delivery.Route{}
	for i, env := range apnsEnvironments {
		if a.manage[i] != nil {
			routes[env.name] = a.route(i, a.manage[i], delivery.Observer{}) // channel calls are not notifications
		}
	}
	return routes
}

// route returns a route to a service of an environment.
func (a *apnsApp) route(environment int, s *service, observer delivery.Observer) *delivery.Route {
	r := s.route(a.provider, &a.config.Retry, observer)
	if a.config.URL == "" {
		r.Environment = apnsEnvironments[environment].name
	}
	return r
}
