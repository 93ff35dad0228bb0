// SPDX-License-Identifier: Apache-2.0

// Package webpush implements Web Push: the request of RFC 8030, encrypted for one browser (RFC 8291) and
// signed with the sender's VAPID key (RFC 8292), and the table that maps responses to verdicts. It opens
// no connection, and creates requests only for the configured push services.
//
// If webpush.payload is set, it is the plaintext. Otherwise the plaintext is a JSON object for the page's
// service worker, which uses the names of showNotification's options where they exist:
//
//	title, subtitle, body   title, subtitle, body
//	image, sound            image, sound
//	badge                   app_badge, for navigator.setAppBadge
//	data                    data
//	priority                header Urgency: high, normal, low
//	ttl                     header TTL; the default is four weeks; 0 also sets X-WNS-Cache-Policy for Windows
//	collapse_key            header Topic, and tag; a key that some service refuses as a Topic is replaced by a hash in Topic
//
// The options in webpush.notification replace them. A declarative push message (W3C Push API), which a
// browser displays without a service worker, has the options in notification, with title and navigate,
// and repeats these members for service workers that do not know the format.
package webpush

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Config is a VAPID key and the push services that it can be used with.
type Config struct {
	// Key signs the requests. A subscription is only valid with the key that it was created with.
	// Required.
	Key *Key
	// Subject is the sender's contact for push services: a mailto: or https: URL. Required.
	Subject string
	// Services are the hosts that a subscription can have: a name, *.name for all its subdomains,
	// or * for every public host. nil means KnownServices. Subscriptions come from browsers and are
	// untrusted: an attacker can make the gateway send requests to every host in this list.
	Services []string
	// Declarative says which services get declarative push messages; the default is DeclarativeApple.
	Declarative Declarative
	// Navigate is the https URL to open for notifications that name none; empty means none.
	Navigate string
	// OriginOverride is the origin of a mock service. If it is set, all requests are for this
	// origin, whatever service a subscription has, and the mock's own subscriptions are accepted
	// too.
	OriginOverride string
}

// KnownServices are the hosts of the push services of Chrome, Edge, Firefox and Safari.
var KnownServices = []string{
	"fcm.googleapis.com", "*.push.services.mozilla.com", "*.push.apple.com", "*.notify.windows.com",
}

// Provider translates notifications for push services and judges the responses. It is safe for
// concurrent use.
type Provider struct {
	services       []string
	originOverride string
	declarative    Declarative
	navigate       string
	tokens         *tokenCache
}

// New returns a provider. An error names the invalid field of cfg and what is allowed there.
func New(cfg Config) (*Provider, error) {
	switch {
	case cfg.Key == nil:
		return nil, errors.New("webpush: key: missing (to create one: gateway key vapid)")
	case !isSubject(cfg.Subject):
		return nil, errors.New("webpush: subject: must be a mailto: address or an https: URL (RFC 8292)")
	}
	if cfg.Services == nil {
		cfg.Services = KnownServices
	}
	if cfg.Navigate != "" && !isHTTPS(cfg.Navigate) {
		return nil, errors.New("webpush: navigate: must be an https URL")
	}
	for _, pattern := range cfg.Services {
		if name := strings.TrimPrefix(pattern, "*."); pattern != "*" && !isHost(name) {
			return nil, errors.New("webpush: services: each must be a lower-case host name, *. followed by a host name, or *")
		}
	}
	return &Provider{
		services: cfg.Services, originOverride: cfg.OriginOverride, declarative: cmp.Or(cfg.Declarative, DeclarativeApple), navigate: cfg.Navigate,
		tokens: newTokenCache(cfg.Key, cfg.Subject),
	}, nil
}

// LimitedRate returns how many messages a minute the service at that origin accepts from a sender
// that it limits, or 0 if that is not known. Chrome's service accepts at least 1,000 a minute from a
// disruptive site ("Increasing web push notification value with rate limits", read 2026-11-22). A
// mock can play every service.
func (p *Provider) LimitedRate(origin string) int {
	if origin == "https://fcm.googleapis.com" || p.originOverride != "" {
		return 1000
	}
	return 0
}

func isSubject(s string) bool {
	for _, scheme := range [...]string{"mailto:", "https:"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok {
			return rest != ""
		}
	}
	return false
}

// AppleRefusesSubject reports whether Apple answers BadJwtToken to tokens with that subject, although
// its scheme is right: that of a host which is not public, such as localhost, and one with two
// schemes (observed; web-push #947, webpush-go #92). Other services accept them.
func AppleRefusesSubject(subject string) bool {
	scheme, rest, _ := strings.Cut(subject, ":")
	host := strings.ToLower(rest[strings.LastIndexByte(rest, '@')+1:])
	if scheme == "https" {
		u, err := url.Parse(subject)
		if err != nil {
			return true
		}
		host = strings.ToLower(u.Hostname())
	}
	host, _, _ = strings.Cut(host, "?") // mailto:ops@example.com?subject=Push
	reserved := [...]string{"localhost", "local", "invalid", "test", "example"}
	return !isHost(host) || slices.Contains(reserved[:], host[strings.LastIndexByte(host, '.')+1:]) || strings.HasPrefix(rest, "mailto:")
}

// Origin returns the origin to send n to: the scheme, host and port of the subscription's endpoint,
// or OriginOverride. If the subscription is malformed or its host is not allowed, the error is a
// *push.FieldError.
func (p *Provider) Origin(n *push.Notification) (string, error) {
	if n.Kind() != push.ToSubscription {
		return "", invalid("subscription", invalidTarget, "set, and no other target, for Web Push")
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

// PublicOrigins returns the origins of the push services that subscriptions may name and whose host
// names are known in advance, such as https://web.push.apple.com for *.push.apple.com; or
// OriginOverride.
func (p *Provider) PublicOrigins() (found []string) {
	if p.originOverride != "" {
		return []string{p.originOverride}
	}
	hosts := []string{"fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com"}
	for _, pattern := range p.services {
		if !strings.Contains(pattern, "*") && !slices.Contains(hosts, pattern) {
			hosts = append(hosts, pattern)
		}
	}
	for _, host := range hosts {
		if p.isAllowedHost(host) {
			found = append(found, "https://"+host)
		}
	}
	return found
}

// AllowsApple reports whether subscriptions may name Apple's service.
func (p *Provider) AllowsApple() bool { return p.isAllowedHost("web.push.apple.com") }

// Authorize checks that the key can sign. Send reports the same error; Authorize reports it
// earlier.
func (p *Provider) Authorize(context.Context) error {
	_, err := p.tokens.get("https://example.com")
	return err
}

// Translate checks n and returns the encrypted request for it, without the VAPID token. If n is
// invalid, the error is a *push.FieldError.
func (p *Provider) Translate(n *push.Notification) (*wire.Request, error) {
	if _, err := p.Origin(n); err != nil {
		return nil, err
	}
	browser, err := parseKeys(&n.Subscription.Keys)
	if err != nil {
		return nil, err
	}
	u, err := p.endpoint(n.Subscription.Endpoint)
	if err != nil {
		return nil, err
	}
	header, err := header(n, u)
	if err != nil {
		return nil, err
	}
	text, err := p.Plaintext(n)
	if err != nil {
		return nil, err
	}
	body, err := browser.encrypt(text)
	if err != nil {
		return nil, err
	}
	return &wire.Request{Method: "POST", Path: u.RequestURI(), Header: header, Body: body}, nil
}

// Sign returns the header field with the VAPID token for the push service of n (RFC 8292, section 3),
// which every request needs. used is for Judge. If no token can be created, failed is the outcome of
// the attempt.
func (p *Provider) Sign(_ context.Context, n *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	origin, err := p.Origin(n)
	if err != nil {
		o := push.InvalidNotification(err)
		return wire.Field{}, nil, &o
	}
	t, err := p.tokens.get(origin)
	if err != nil {
		return wire.Field{}, nil, &push.Outcome{Verdict: push.Unauthorized, Reason: "TOKEN_NOT_MINTED", Scope: push.ScopeCredential}
	}
	return wire.Field{Name: "authorization", Value: t.authorization, NeverIndexed: true}, signature{origin, t}, nil
}

// signature is the result of Sign that Judge needs.
type signature struct {
	origin string
	token  *vapidToken
}

// Judge returns the outcome of an attempt that got a response or the error of a wire.Doer. used is
// the result of Sign.
func (p *Provider) Judge(n *push.Notification, used any, response *wire.Response, err error) push.Outcome {
	if err != nil {
		return push.NoResponse(err)
	}
	o := judge(response, n.Subscription)
	if s, ok := used.(signature); ok && o.Verdict == push.Unauthorized {
		o.Renewed = p.tokens.invalidate(s.origin, s.token)
	}
	return o
}
