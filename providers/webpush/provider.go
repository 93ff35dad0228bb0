// SPDX-License-Identifier: Apache-2.0

// Package webpush speaks to the browsers' push services: the request of RFC 8030, encrypted to one browser (RFC 8291),
// signed with the sender's VAPID key (RFC 8292), and the table from an answer to our verdict. It opens no connection,
// and it lets no request out to a host that is not one of the configured push services.
//
// What the common fields of a notification become. Where webpush.payload does not replace it, the plaintext is a JSON
// object for the page's service worker, whose members are those that showNotification takes where it has them:
//
//	title, subtitle, body   title, subtitle, body
//	image, sound            image, sound
//	badge                   app_badge, for navigator.setAppBadge
//	data                    data
//	priority                the header Urgency: high, normal, low
//	ttl                     the header TTL; without one, four weeks
//	collapse_key            the header Topic, and tag; what cannot be a Topic goes as 32 characters of its hash
package webpush

import (
	"context"
	"errors"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Config is one VAPID key and the push services that it may be used with.
type Config struct {
	// Key signs for the sender. Browsers tie their subscriptions to it. Required.
	Key *Key
	// Subject is how a push service reaches the sender: mailto: or https:. Required.
	Subject string
	// Services are the hosts that a subscription may name: a name, or *.name for all below it, or * for every public
	// host. nil means KnownServices. A subscription comes from a browser, that is, from anybody: every host in this
	// list is one that strangers can make the gateway call.
	Services []string
	// StandIn is the origin of a mock. It is then the only place that requests are made for, whatever service a
	// subscription names; its own subscriptions are taken, too.
	OriginOverride string
}

// KnownServices are the hosts of the push services of Chrome, Edge, Firefox and Safari.
var KnownServices = []string{
	"fcm.googleapis.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com",
}

// Provider translates notifications for push services and judges their answers. It is safe for use by many goroutines.
type Provider struct {
	services       []string
	originOverride string
	tokens         *tokenCache
}

// New returns a provider. An error names the field of cfg that is wrong and what is allowed there.
func New(cfg Config) (*Provider, error) {
	switch {
	case cfg.Key == nil:
		return nil, errors.New("webpush: key: missing (gateway key vapid makes one)")
	case !isSubject(cfg.Subject):
		return nil, errors.New("webpush: subject: must be a mailto: address or an https: URL (RFC 8292)")
	}
	if cfg.Services == nil {
		cfg.Services = KnownServices
	}
	for _, pattern := range cfg.Services {
		if name := strings.TrimPrefix(pattern, "*."); pattern != "*" && !isHost(name) {
			return nil, errors.New("webpush: services: each must be a host name in lower case, or *. and one, or *")
		}
	}
	return &Provider{services: cfg.Services, originOverride: cfg.OriginOverride, tokens: newTokenCache(cfg.Key, cfg.Subject)}, nil
}

func isSubject(s string) bool {
	for _, scheme := range [...]string{"mailto:", "https:"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok {
			return rest != ""
		}
	}
	return false
}

// Origin returns where n's request is to be made: the scheme, host and port of its subscription's endpoint, or the
// stand-in's. A subscription that is malformed, or of a host that may not be called, is a *push.FieldError.
func (p *Provider) Origin(n *push.Notification) (string, error) {
	if n.Kind() != push.ToSubscription {
		return "", invalid("subscription", invalidTarget, "given, and the only target: Web Push is sent to subscriptions")
	}
	u, err := p.endpoint(n.Subscription.Endpoint)
	switch {
	case err != nil:
		return "", err
	case p.originOverride != "":
		return p.originOverride, nil
	}
	return "https://" + strings.ToLower(u.Hostname()), nil
}

// Authorize makes sure that the key signs. Sending does so by itself: this is for those who want to know before.
func (p *Provider) Authorize(context.Context) error {
	_, err := p.tokens.get("https://example.com")
	return err
}

// Translate checks n and writes it as an encrypted request: all but the VAPID proof. A misfit is a *push.FieldError.
func (p *Provider) Translate(n *push.Notification) (*wire.Request, error) {
	if _, err := p.Origin(n); err != nil {
		return nil, err
	}
	browser, err := parseKeys(&n.Subscription.Keys)
	if err != nil {
		return nil, err
	}
	header, err := header(n)
	if err != nil {
		return nil, err
	}
	text, err := plaintext(n)
	if err != nil {
		return nil, err
	}
	body, err := browser.encrypt(text)
	if err != nil {
		return nil, err
	}
	u, err := p.endpoint(n.Subscription.Endpoint)
	if err != nil {
		return nil, err
	}
	return &wire.Request{Method: "POST", Path: u.RequestURI(), Header: header, Body: body}, nil
}

// Send makes one attempt with r, as Translate wrote it, on conn and judges the answer, once. It leaves r as it is: other
// attempts may be using it. conn must lead to Origin.
func (p *Provider) Send(ctx context.Context, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome {
	origin, err := p.Origin(n)
	if err != nil {
		return push.InvalidNotification(err)
	}
	used, err := p.tokens.get(origin)
	if err != nil {
		return push.Outcome{Verdict: push.Unauthorized, Reason: "TOKEN_NOT_MINTED", Scope: push.ScopeCredential}
	}
	answer, err := conn.Do(ctx, withAuthorization(r, used))
	if err != nil {
		return push.NoResponse(err)
	}
	o := judge(answer, n.Subscription)
	if o.Verdict == push.Unauthorized {
		o.Renewed = p.tokens.invalidate(origin, used)
	}
	return o
}

// withAuthorization returns r with the VAPID proof (RFC 8292, section 3). It stays out of the compression table.
func withAuthorization(r *wire.Request, by *vapidToken) *wire.Request {
	signed := *r
	signed.Header = append(append(make([]wire.Field, 0, len(r.Header)+1), r.Header...),
		wire.Field{Name: "authorization", Value: by.authorization, NeverIndexed: true})
	return &signed
}
