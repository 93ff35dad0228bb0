// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// Subscription is what a browser passes to a web site, in the format of PushSubscription.toJSON().
type Subscription struct {
	Endpoint string           `json:"endpoint"`
	Keys     SubscriptionKeys `json:"keys"`
}

// SubscriptionKeys are base64url without padding.
type SubscriptionKeys struct {
	P256DH string `json:"p256dh"` // public key of the browser
	Auth   string `json:"auth"`   // 16 secret bytes
}

// subscriber is a browser with a subscription.
type subscriber struct {
	private   *ecdh.PrivateKey
	auth      []byte
	serverKey string // the only VAPID key that may send, base64url; "" for any
	gone      bool
}

// decrypt decrypts the body of a request and sets r.Plaintext or r.Undecryptable.
func (s subscriber) decrypt(r *h2.Request) {
	e, err := parseEncrypted(r.Body)
	if err != nil {
		r.Undecryptable = err.Error()
		return
	}
	plaintext, err := e.decrypt(s.private, s.auth)
	if err != nil {
		r.Undecryptable = err.Error()
		return
	}
	r.Plaintext = string(plaintext)
}

// subscribers holds all subscriptions, including ended ones, by the token in their endpoint. It is
// safe for concurrent use.
type subscribers struct {
	mu      sync.RWMutex
	byToken map[string]subscriber
}

func newSubscribers() *subscribers { return &subscribers{byToken: map[string]subscriber{}} }

func (s *subscribers) lookup(token string) (subscriber, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	one, ok := s.byToken[token]
	return one, ok
}

// Subscribe makes a subscription as a browser does. baseURL is the URL of the service. serverKey is
// the public VAPID key of the web site, base64url, which the subscription is restricted to; "" for no
// restriction.
func (s *Service) Subscribe(baseURL string, flavour Flavour, serverKey string) (Subscription, error) {
	path, ok := subscriptionPaths[flavour]
	if !ok {
		return Subscription{}, fmt.Errorf("flavour %q is unknown (allowed: google, mozilla, apple, windows)", flavour)
	}
	serverKey = strings.TrimRight(serverKey, "=")
	if serverKey != "" && !isPublicKey(serverKey) {
		return Subscription{}, errors.New("the server key is not an uncompressed point of P-256 in base64url")
	}
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return Subscription{}, err
	}
	secret := make([]byte, 16+24)
	_, _ = rand.Read(secret)
	auth := secret[:16]
	token := tokenPrefixes[flavour] + base64.RawURLEncoding.EncodeToString(secret[16:])
	s.subscribers.mu.Lock()
	s.subscribers.byToken[token] = subscriber{private: private, auth: auth, serverKey: serverKey}
	s.subscribers.mu.Unlock()
	return Subscription{Endpoint: baseURL + path + token, Keys: SubscriptionKeys{
		P256DH: base64.RawURLEncoding.EncodeToString(private.PublicKey().Bytes()),
		Auth:   base64.RawURLEncoding.EncodeToString(auth),
	}}, nil
}

// Unsubscribe ends a subscription: a push to it is then rejected with 410. It reports whether there
// was such a subscription.
func (s *Service) Unsubscribe(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	_, token := parseEndpoint("", u.RequestURI())
	s.subscribers.mu.Lock()
	defer s.subscribers.mu.Unlock()
	one, ok := s.subscribers.byToken[token]
	if ok {
		one.gone = true
		s.subscribers.byToken[token] = one
	}
	return ok
}

// isPublicKey reports whether text is an uncompressed point of P-256 in base64url.
func isPublicKey(text string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	_, err = ecdh.P256().NewPublicKey(raw)
	return err == nil
}
