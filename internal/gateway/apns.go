// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"crypto/x509"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
)

// apnsURLs and apnsManageURLs are Apple's services for notifications and for channel management.
var (
	apnsURLs = map[push.Environment]config.Base{
		push.Production: "https://api.push.apple.com", push.Sandbox: "https://api.sandbox.push.apple.com",
	}
	apnsManageURLs = map[push.Environment]config.Base{
		push.Production: "https://api-manage-broadcast.push.apple.com:2196",
		push.Sandbox:    "https://api-manage-broadcast.sandbox.push.apple.com:2195",
	}
)

// maxChannelList is the maximum size of a list of channels in bytes: 10,000 IDs of up to 200
// characters, quoted.
const maxChannelList = 4 << 20

// maxManageEndpoints limits the pool size for channel management, which has few calls.
const maxManageEndpoints = 2

// apnsRoutes builds an app's routes to Apple's services, for notifications and for channel
// management. The services of the environment that is not the app's default, and those for channel
// management, are lazy: they connect on first use.
type apnsRoutes struct {
	builder  *builder
	app      string
	path     string
	config   *config.APNs
	roots    *x509.CertPool
	cred     credential
	provider *apns.Provider
	observer delivery.Observer
}

// buildAPNs returns the routes for an app's notifications to Apple.
func (b *builder) buildAPNs(app string, c *config.APNs) (*delivery.Environments, error) {
	path := "apps." + app + ".apns"
	roots, err := loadRoots(path, c.CAFile)
	if err != nil {
		return nil, err
	}
	signer, cred, err := b.apnsCredential(path, c)
	if err != nil {
		return nil, err
	}
	provider, err := apns.New(apns.Config{Topic: c.Topic, Signer: signer})
	if err != nil {
		return nil, keyError(path, "topic", err)
	}
	a := &apnsRoutes{
		builder: b, app: app, path: path, config: c, roots: roots, cred: cred, provider: provider, observer: b.metrics.Route(app, push.APNs),
	}
	e := &delivery.Environments{Default: push.Environment(c.Environment), Routes: map[push.Environment]*delivery.Route{}}
	s, err := a.service(a.sendSettings(e.Default))
	if err != nil {
		return nil, err
	}
	e.Routes[e.Default] = a.route(e.Default, s)
	if c.LearnEnvironment {
		e.Cache = s.environments
	}
	b.deferred = append(b.deferred, func() error { return a.addLazyServices(e) })
	return e, nil
}

// addLazyServices adds the lazy services. It runs after the services that apps use by default have
// been built, so that it reuses them.
func (a *apnsRoutes) addLazyServices(e *delivery.Environments) error {
	manager := &channelManager{environment: e.Default, provider: a.provider, routes: map[push.Environment]*delivery.Route{}}
	for env := range apnsURLs {
		if a.config.URL != "" {
			e.Routes[env] = e.Routes[e.Default]
		} else if env != e.Default {
			want := a.sendSettings(env)
			want.lazy = true
			s, err := a.service(want)
			if err != nil {
				return err
			}
			e.Routes[env] = a.route(env, s)
		}
		if want := a.manageSettings(env); want.base != "" {
			s, err := a.service(want)
			if err != nil {
				return err
			}
			manager.routes[env] = a.route(env, s)
			manager.routes[env].Observer = delivery.Observer{} // channel calls are not notifications
		}
	}
	a.builder.channels[a.app] = manager
	return nil
}

func (a *apnsRoutes) service(want settings) (*service, error) {
	s, err := a.builder.service(a.path, a.cred, want, a.roots)
	if err != nil {
		return nil, err
	}
	s.authorize = a.provider.Authorize
	return s, nil
}

// route returns a route to the service of an environment.
func (a *apnsRoutes) route(env push.Environment, s *service) *delivery.Route {
	r := a.builder.route(s, a.provider, a.config.Retry)
	r.Observer = a.observer
	if a.config.URL == "" {
		r.Environment = env
	}
	return r
}

// sendSettings returns the settings of the service for notifications.
func (a *apnsRoutes) sendSettings(env push.Environment) settings {
	c := a.config
	return settings{
		base: cmp.Or(c.URL, apnsURLs[env]), endpoints: c.Endpoints, caFile: c.CAFile, pool: c.Pool, quota: c.Quota,
		budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor, platform: push.APNs, serializeFirst: a.cred.cert == nil,
	}
}

// manageSettings returns the settings of the service for channel management. Their base is empty if
// there is none.
func (a *apnsRoutes) manageSettings(env push.Environment) settings {
	c := a.config
	base := c.ManageURL
	if base == "" && c.URL == "" && len(c.Endpoints) == 0 {
		base = apnsManageURLs[env]
	}
	small := c.Pool
	small.Size = min(small.Size, maxManageEndpoints)
	return settings{
		base: base, caFile: c.CAFile, pool: small, budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor,
		platform: push.APNs, serializeFirst: a.cred.cert == nil, maxResponse: maxChannelList, lazy: true,
	}
}

// apnsCredential reads the token key or the client certificate. With a certificate, the signer is
// nil.
func (b *builder) apnsCredential(path string, c *config.APNs) (*apns.Signer, credential, error) {
	if c.CertFile != "" {
		cred, err := clientCertificate(path, c)
		return nil, cred, err
	}
	return b.signer(path, c)
}
