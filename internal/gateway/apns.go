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

// apnsURLs and appleManage are where Apple takes notifications, and calls about channels.
var (
	apnsURLs = map[push.Environment]config.Base{
		push.Production: "https://api.push.apple.com", push.Sandbox: "https://api.sandbox.push.apple.com",
	}
	apnsManageURLs = map[push.Environment]config.Base{
		push.Production: "https://api-manage-broadcast.push.apple.com:2196",
		push.Sandbox:    "https://api-manage-broadcast.sandbox.push.apple.com:2195",
	}
)

// maxChannelList is the longest list of channels: 10,000 IDs of up to 200 characters.
const maxChannelList = 4 << 20

// maxManageEndpoints are enough for calls about channels, which are few.
const maxManageEndpoints = 2

// apnsRoutes is an app's way to Apple's services: those that it sends through, and those that keep its channels. A service of
// the environment that is not the app's own sleeps until a notification names it, and one for channels until the first call.
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

// buildAPNs returns what carries an app's notifications to Apple.
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
	own, err := a.service(a.sendSettings(e.Default))
	if err != nil {
		return nil, err
	}
	e.Routes[e.Default] = a.route(e.Default, own)
	if c.LearnEnvironment {
		e.Cache = own.environments
	}
	b.deferred = append(b.deferred, func() error { return a.addLazyServices(e) })
	return e, nil
}

// addLazyServices adds what sleeps, once all apps have what they need for sure: another app's own service is not to be doubled.
func (a *apnsRoutes) addLazyServices(e *delivery.Environments) error {
	home := &channelManager{environment: e.Default, provider: a.provider, routes: map[push.Environment]*delivery.Route{}}
	for in := range apnsURLs {
		if a.config.URL != "" {
			e.Routes[in] = e.Routes[e.Default]
		} else if in != e.Default {
			want := a.sendSettings(in)
			want.lazy = true
			s, err := a.service(want)
			if err != nil {
				return err
			}
			e.Routes[in] = a.route(in, s)
		}
		if want := a.manageSettings(in); want.base != "" {
			s, err := a.service(want)
			if err != nil {
				return err
			}
			home.routes[in] = a.route(in, s)
			home.routes[in].Observer = delivery.Observer{} // these are no notifications
		}
	}
	a.builder.channels[a.app] = home
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

// route returns the way to one service.
func (a *apnsRoutes) route(in push.Environment, s *service) *delivery.Route {
	r := a.builder.route(s, a.provider, a.config.Retry)
	r.Observer = a.observer
	if a.config.URL == "" {
		r.Environment = in
	}
	return r
}

// sendSettings are the settings of the service that notifications go to.
func (a *apnsRoutes) sendSettings(in push.Environment) settings {
	c := a.config
	return settings{
		base: cmp.Or(c.URL, apnsURLs[in]), endpoints: c.Endpoints, caFile: c.CAFile, pool: c.Pool, quota: c.Quota,
		budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor, platform: push.APNs, serializeFirst: a.cred.cert == nil,
	}
}

// manageSettings are the settings of the service that keeps the app's channels, without a base where there is none.
func (a *apnsRoutes) manageSettings(in push.Environment) settings {
	c := a.config
	base := c.ManageURL
	if base == "" && c.URL == "" && len(c.Endpoints) == 0 {
		base = apnsManageURLs[in]
	}
	few := c.Pool
	few.Size = min(few.Size, maxManageEndpoints)
	return settings{
		base: base, caFile: c.CAFile, pool: few, budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor,
		platform: push.APNs, serializeFirst: a.cred.cert == nil, maxResponse: maxChannelList, lazy: true,
	}
}

// apnsCredential reads the token key or the client certificate; the signer is nil with a certificate.
func (b *builder) apnsCredential(path string, c *config.APNs) (*apns.Signer, credential, error) {
	if c.CertFile != "" {
		cred, err := clientCertificate(path, c)
		return nil, cred, err
	}
	return b.signer(path, c)
}
