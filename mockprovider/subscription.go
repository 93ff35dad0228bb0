// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"sync"
)

// Flavour is whose Web Push service is played: paths, checks and the bodies of errors differ.
type Flavour string

// The flavours.
const (
	Google  Flavour = "google"
	Mozilla Flavour = "mozilla"
	Apple   Flavour = "apple"
)

// Subscription is what a browser hands to a web site, in the shape of PushSubscription.toJSON().
type Subscription struct {
	Endpoint string           `json:"endpoint"`
	Keys     SubscriptionKeys `json:"keys"`
}

// SubscriptionKeys are base64url without padding: the browser's public key, and 16 secret bytes.
type SubscriptionKeys struct {
	P256DH string `json:"p256dh"`
	Auth   string `json:"auth"`
}

// subscriber is the browser's side of a subscription.
type subscriber struct {
	flavour   Flavour
	private   *ecdh.PrivateKey
	auth      []byte
	serverKey string // the only VAPID key that may send, base64url; "" for any
	gone      bool
}

// subscribers are all that were ever subscribed, by the token in their endpoint.
type subscribers struct {
	mu    sync.RWMutex
	known map[string]subscriber
}

func newSubscribers() *subscribers { return &subscribers{known: map[string]subscriber{}} }

func (s *subscribers) lookUp(token string) (subscriber, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	one, ok := s.known[token]
	return one, ok
}

// Subscribe plays a browser that subscribes. What is then sent to the subscription is decrypted: the ledger says whether
// that succeeded, and with Config.KeepContent what it said. serverKey is the web site's public VAPID key, base64url, to
// which the subscription is bound; "" binds it to none.
func (m *Mock) Subscribe(flavour Flavour, serverKey string) (Subscription, error) {
	path, ok := subscriptionPaths[flavour]
	if !ok {
		return Subscription{}, fmt.Errorf("mockprovider: flavour %q is unknown (allowed: google, mozilla, apple)", flavour)
	}
	serverKey = strings.TrimRight(serverKey, "=")
	if serverKey != "" && !isPoint(serverKey) {
		return Subscription{}, fmt.Errorf("mockprovider: the server key is no uncompressed point of P-256 in base64url")
	}
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return Subscription{}, err
	}
	secret := make([]byte, 16+24)
	_, _ = rand.Read(secret)
	one := subscriber{flavour: flavour, private: private, auth: secret[:16], serverKey: serverKey}
	token := tokenBeginnings[flavour] + base64.RawURLEncoding.EncodeToString(secret[16:])
	m.subscribers.mu.Lock()
	m.subscribers.known[token] = one
	m.subscribers.mu.Unlock()
	return Subscription{Endpoint: m.WebPushURL() + path + token, Keys: SubscriptionKeys{
		P256DH: base64.RawURLEncoding.EncodeToString(private.PublicKey().Bytes()),
		Auth:   base64.RawURLEncoding.EncodeToString(one.auth),
	}}, nil
}

// Unsubscribe ends a subscription: from now on a push to it is answered 410. It reports whether there was one.
func (m *Mock) Unsubscribe(endpoint string) bool {
	at, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	_, token := subscriptionOf("", at.Path)
	m.subscribers.mu.Lock()
	defer m.subscribers.mu.Unlock()
	one, ok := m.subscribers.known[token]
	one.gone = true
	if ok {
		m.subscribers.known[token] = one
	}
	return ok
}

// isPoint wants an uncompressed point of P-256 in base64url.
func isPoint(text string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	_, err = ecdh.P256().NewPublicKey(raw)
	return err == nil
}
