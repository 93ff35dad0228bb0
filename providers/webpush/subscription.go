// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/ecdh"
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/sluice-push/sluice/push"
)

// The reasons of a misfit: those words of a receipt that mean that nothing was sent.
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
	maxEndpointLen = 2048 // ours: real ones have about 200 to 600 bytes
)

// endpoint reads a subscription's URL. Whoever can subscribe chooses it, so what is let through is no more than a push
// service: a name and no address, in whatever spelling; the one port; nothing that another parser could read otherwise.
func (p *Provider) endpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case text == "" || len(text) > maxEndpointLen || !allBytes(text, isURLByte), err != nil,
		u.Scheme != "https", u.User != nil, u.Opaque != "", strings.Contains(text, "#"), !strings.HasPrefix(u.Path, "/"):
		return nil, invalid(endpointField, invalidTarget, "an https URL without user and fragment, as PushSubscription.toJSON gives it")
	case p.originOverride != "" && "https://"+u.Host == p.originOverride:
		return u, nil
	case u.Port() != "" && u.Port() != "443", strings.HasSuffix(u.Host, ":"):
		return nil, invalid(endpointField, invalidTarget, "a URL on port 443")
	case !p.isAllowedHost(strings.ToLower(u.Hostname())):
		return nil, invalid(endpointField, "ServiceNotAllowed", "a URL of one of the push services that this app is configured for: "+
			strings.Join(p.services, ", "))
	}
	return u, nil
}

func isURLByte(c byte) bool {
	return '!' <= c && c <= '~' && c != '\\' && c != '"' && c != '<' && c != '>'
}

// allBytes reports whether every byte of s is allowed.
func allBytes(s string, allowed func(byte) bool) bool {
	for i := range len(s) {
		if !allowed(s[i]) {
			return false
		}
	}
	return true
}

// isAllowedHost reports whether host is one of the services.
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

// isHost reports whether s is a DNS name of at least two labels, in lower case. The last one begins with a letter, so no
// spelling of an IP address is a name: not 127.1, not 0x7f.0.0.1, not 2130706433.
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

// recipient is whom a message is encrypted to (RFC 8291, section 3.1).
type recipient struct {
	publicKey  *ecdh.PublicKey
	authSecret []byte // the authentication secret
}

// parseKeys reads a subscription's keys. Some libraries hand them on in the base64 of RFC 4648's section 4, or padded.
func parseKeys(k *push.SubscriptionKeys) (*recipient, error) {
	point, err := decodeBase64(k.P256dh)
	if err != nil || len(point) != 65 {
		return nil, invalid("subscription.keys.p256dh", invalidTarget, "an uncompressed P-256 point: 65 bytes in base64url")
	}
	public, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return nil, invalid("subscription.keys.p256dh", invalidTarget, "a point on the curve P-256: this one is not")
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
