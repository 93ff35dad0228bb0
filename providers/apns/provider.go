// SPDX-License-Identifier: Apache-2.0

// Package apns speaks Apple's push protocol: the request, the provider token,
// and the table from Apple's reason to our verdict. It keeps no connection and
// never repeats a request.
//
// What the common fields of a notification become, where apns.payload does not
// replace the whole payload:
//
//	title, subtitle, body   aps.alert
//	badge, sound            aps.badge, aps.sound
//	image                   image beside aps, and aps.mutable-content 1 for the app's service extension to fetch it
//	data                    a member each beside aps
//	data alone              push type background, aps.content-available 1
//	priority                apns-priority: high 10, normal 5, low 1; absent when unset, which means 10 to Apple;
//	                        5 for every background push and at least 5 for every Live Activity, as Apple demands
//	ttl                     apns-expiration, in seconds since 1970; ttl 0 is 0: now or never
//	collapse_key            apns-collapse-id
//
// A channel takes Live Activities only, whose payload is always the sender's own.
package apns

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Config is one credential of Apple's and the app that it sends for.
type Config struct {
	// Topic is the app's bundle ID, without any push type's suffix. It is
	// required with a Signer. With a certificate it may be left out when the
	// certificate has one topic, and is its subject's UID for push type mdm.
	Topic string
	// Signer makes the provider tokens. Apps that share a key must share its
	// Signer, or Apple refuses their tokens as too many. nil means that the
	// connection's TLS client certificate is the credential.
	Signer *Signer
}

// Provider translates notifications for Apple and judges its answers. It is
// safe for use by many goroutines.
type Provider struct {
	topic  string
	topics map[string]string // by push type, suffix included; empty without a topic
	signer *Signer           // nil with a certificate
}

// New returns a provider. An error names the field of cfg that is wrong and
// what is allowed there.
func New(cfg Config) (*Provider, error) {
	if cfg.Topic == "" && cfg.Signer != nil {
		return nil, errors.New("apns: topic: missing (a key needs one: the app's bundle ID, such as com.example.app)")
	}
	if cfg.Topic != "" && !isTopic(cfg.Topic) {
		return nil, fmt.Errorf("apns: topic: must be a bundle ID: %s", topicGrammar)
	}
	p := &Provider{topic: cfg.Topic, topics: map[string]string{}, signer: cfg.Signer}
	for i := range pushTypes {
		if cfg.Topic != "" {
			p.topics[pushTypes[i].name] = pushTypes[i].topic(cfg.Topic)
		}
	}
	return p, nil
}

// Authorize makes sure that there is a credential to send with. Sending does
// so by itself: this is for those who want to know before.
func (p *Provider) Authorize(context.Context) error {
	if p.signer == nil {
		return nil
	}
	_, err := p.signer.token()
	return err
}

// Translate checks n and writes it as Apple's request: all but the provider
// token. A misfit is a *push.FieldError.
func (p *Provider) Translate(n *push.Notification) (*wire.Request, error) {
	if n.Kind() == push.ToChannel {
		return p.broadcast(n)
	}
	if err := checkTarget(&n.Target); err != nil {
		return nil, err
	}
	look, err := contentOf(n)
	if err != nil {
		return nil, err
	}
	kind, err := p.pushType(n, look)
	if err != nil {
		return nil, err
	}
	body, err := payload(n, kind)
	if err != nil {
		return nil, err
	}
	header, err := p.header(n, kind)
	if err != nil {
		return nil, err
	}
	if kind.name == "liveactivity" {
		if err := checkLiveActivity(n); err != nil {
			return nil, err
		}
	}
	return &wire.Request{Method: "POST", Path: "/3/device/" + n.Token, Header: header, Body: body}, nil
}

// Send makes one attempt with r, as Translate wrote it, on conn and judges the
// answer, once. It leaves r as it is: other attempts may be using it.
func (p *Provider) Send(ctx context.Context, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome {
	o, answer := p.attempt(ctx, conn, r, n.Kind() == push.ToChannel)
	if o.Verdict == push.Accepted {
		o.ProviderID = providerID(answer, n)
	}
	return o
}

// attempt sends r with the provider token and judges the answer, by the rows of broadcasts or by those of devices.
func (p *Provider) attempt(ctx context.Context, conn wire.Doer, r *wire.Request, broadcast bool) (push.Outcome, *wire.Response) {
	used, err := p.token()
	if err != nil {
		return push.Outcome{Verdict: push.Unauthorized, Reason: "TOKEN_NOT_MINTED", Scope: push.ScopeCredential}, nil
	}
	answer, err := conn.Do(ctx, withAuthorization(r, used))
	if err != nil {
		return p.judgeNoResponse(err, used), nil
	}
	return p.judge(answer, broadcast, used), answer
}

// token returns the provider token to send with, nil where a certificate
// speaks for us.
func (p *Provider) token() (*token, error) {
	if p.signer == nil {
		return nil, nil
	}
	return p.signer.token()
}

// withAuthorization returns r with the provider token. The token stays out of the
// compression table: Apple asks for authorization to be sent without indexing
// (Communicating with APNs, HPACK), and RFC 7541, section 7.1.3, for secrets
// never to be indexed.
func withAuthorization(r *wire.Request, t *token) *wire.Request {
	if t == nil {
		return r
	}
	signed := *r
	signed.Header = append(append(make([]wire.Field, 0, len(r.Header)+1), r.Header...), wire.Field{Name: "authorization", Value: t.bearer, NeverIndexed: true})
	return &signed
}
