// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/ecdh"
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/sluice-push/sluice/push"
)

// The reasons of an invalid notification. A receipt with one of them means that nothing was sent.
const (
	invalidTarget   = "InvalidTarget"
	invalidField    = "InvalidField"
	invalidHeader   = "InvalidHeader"
	invalidPayload  = "InvalidPayload"
	payloadEmpty    = "PayloadEmpty"
	payloadTooLarge = "PayloadTooLarge"
)

func invalid(field, reason, allowed string) error {
	return &push.FieldError{Field: field, Reason: reason, Allowed: allowed}
}

const (
	endpointField  = "subscription.endpoint"
	maxEndpointLen = 2048 // our limit: real endpoints have about 200 to 600 bytes
)

// endpoint parses a subscription's URL. Any client of the app can choose it, so this accepts only
// URLs of push services: a host name rather than an IP address in any notation, port 443, and
// nothing that another parser could read differently.
func (p *Provider) endpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err == nil && strings.EqualFold(u.Hostname(), removedHost) {
		return nil, &push.FieldError{Field: endpointField, Reason: "SubscriptionRemoved", Unregistered: true,
			Allowed: "that of an active subscription: browsers use " + removedHost + " after the user has unsubscribed"}
	}
	switch {
	case text == "" || len(text) > maxEndpointLen || !allBytes(text, isURLByte), err != nil,
		u.Scheme != "https", u.User != nil, u.Opaque != "", strings.Contains(text, "#"), !strings.HasPrefix(u.Path, "/"):
		return nil, invalid(endpointField, invalidTarget, "an https URL without user and fragment, as PushSubscription.toJSON returns it")
	case p.originOverride != "" && "https://"+u.Host == p.originOverride:
		return u, nil
	case u.Port() != "" && u.Port() != "443", strings.HasSuffix(u.Host, ":"):
		return nil, invalid(endpointField, invalidTarget, "a URL on port 443")
	case !p.isAllowedHost(strings.ToLower(u.Hostname())):
		return nil, invalid(endpointField, "ServiceNotAllowed", "a URL of one of the push services in this app's configuration: "+
			strings.Join(p.services, ", "))
	}
	return u, nil
}

// removedHost is the host that Chrome and Edge put into a subscription that has ended (observed). It
// does not exist.
const removedHost = "permanently-removed.invalid"

func isApple(u *url.URL) bool {
	return strings.HasSuffix(strings.ToLower(u.Hostname()), ".push.apple.com")
}

// isWNS reports whether an endpoint is one of Windows. Its service refuses TTL 0 unless another
// header says the same (observed since 2024; webpush-go #66). A mock has the paths of the service,
// but not the host.
func isWNS(u *url.URL) bool {
	return strings.HasSuffix(strings.ToLower(u.Hostname()), ".notify.windows.com") || u.Path == "/w/"
}

func isURLByte(c byte) bool {
	return '!' <= c && c <= '~' && c != '\\' && c != '"' && c != '<' && c != '>'
}

// allBytes reports whether allowed returns true for every byte of s.
func allBytes(s string, allowed func(byte) bool) bool {
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return true
}

// isAllowedHost reports whether host is one of the configured services.
func (p *Provider) isAllowedHost(host string) bool {
	if !isHost(host) {
		return false
	}
	for _, pattern := range p.services {
		below, isSuffix := strings.CutPrefix(pattern, "*.")
		switch {
		case pattern == "*", pattern == host, isSuffix && strings.HasSuffix(host, "."+below):
			return true
		}
	}
	return false
}

// isHost reports whether s is a lower-case DNS name of at least two labels. The last label must
// start with a letter, which excludes IP addresses in every notation, such as 127.1, 0x7f.0.0.1 and
// 2130706433.
func isHost(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > 253 || len(labels) < 2 {
		return false
	}
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || !allBytes(label, isHostByte) {
			return false
		}
	}
	first := labels[len(labels)-1][0]
	return 'a' <= first && first <= 'z'
}

func isHostByte(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' }

// recipient holds the keys that a message is encrypted for (RFC 8291, section 3.1).
type recipient struct {
	publicKey  *ecdh.PublicKey
	authSecret []byte
}

// parseKeys parses a subscription's keys. Some libraries send them in standard base64 or with
// padding.
func parseKeys(k *push.SubscriptionKeys) (*recipient, error) {
	point, err := decodeBase64(k.P256dh)
	if err != nil || len(point) != 65 {
		return nil, invalid("subscription.keys.p256dh", invalidTarget, "an uncompressed P-256 point: 65 bytes in base64url")
	}
	public, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return nil, invalid("subscription.keys.p256dh", invalidTarget, "a point on the curve P-256")
	}
	secret, err := decodeBase64(k.Auth)
	if err != nil || len(secret) != 16 {
		return nil, invalid("subscription.keys.auth", invalidTarget, "16 bytes in base64url")
	}
	return &recipient{public, secret}, nil
}

var toURLAlphabet = strings.NewReplacer("+", "-", "/", "_")

func decodeBase64(s string) ([]byte, error) {
	return base64.RawURLEncoding.Strict().DecodeString(toURLAlphabet.Replace(strings.TrimRight(s, "=")))
}
