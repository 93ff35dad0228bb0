// SPDX-License-Identifier: Apache-2.0

// Package apns implements the protocol of the Apple Push Notification service: the request, the
// provider token, and the table that maps APNs' error reasons to verdicts. It opens no connection and
// does not retry.
//
// If apns.payload is set, it replaces the whole payload. Otherwise the common fields of a notification
// are translated as follows:
//
//	title, subtitle, body   aps.alert
//	badge, sound            aps.badge, aps.sound
//	image                   image next to aps, and aps.mutable-content 1, so that the app's service extension fetches it
//	data                    one member each, next to aps
//	only data               push type background, aps.content-available 1
//	priority                apns-priority: high 10, normal 5, low 1; absent if unset, which APNs treats as 10;
//	                        always 5 for background, and at least 5 for Live Activities, as APNs requires
//	ttl                     apns-expiration, in seconds since 1970; ttl 0 is 0: one delivery attempt
//	collapse_key            apns-collapse-id
//
// A broadcast to a channel must be a Live Activity and requires apns.payload.
package apns

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Config is an APNs credential and the app that uses it.
type Config struct {
	// Topic is the app's bundle ID. It is required with a Signer. With a certificate it is optional
	// if the certificate has one topic; for push type mdm it is the UID in the certificate's
	// subject. If it ends in the suffix of a push type, such as .voip, notifications that set no
	// push type have that one.
	Topic string
	// Signer creates the provider tokens. Apps that share a key must share its Signer, or APNs
	// refuses their tokens because they change too often. nil means that the credential is the TLS
	// client certificate of the connection.
	Signer *Signer
}

// Provider translates notifications for APNs and judges the responses. It is safe for concurrent
// use.
type Provider struct {
	topic  string
	signer *Signer // nil if the credential is a certificate
}

// New returns a provider. An error names the invalid field of cfg and what is allowed there.
func New(cfg Config) (*Provider, error) {
	if cfg.Topic == "" && cfg.Signer != nil {
		return nil, errors.New("apns: topic: missing (required with a key: the app's bundle ID, such as com.example.app)")
	}
	if cfg.Topic != "" && !isTopic(cfg.Topic) {
		return nil, fmt.Errorf("apns: topic: must be a bundle ID: %s", topicFormat)
	}
	return &Provider{topic: cfg.Topic, signer: cfg.Signer}, nil
}

// Authorize creates a provider token if there is no valid one. Sign does that too; Authorize
// reports errors earlier.
func (p *Provider) Authorize(context.Context) error {
	if p.signer == nil {
		return nil
	}
	_, err := p.signer.token()
	return err
}

// Translate checks n and returns the request for it, without the provider token. If n is invalid,
// the error is a *push.FieldError.
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
	return &wire.Request{Method: "POST", Path: devicePath(n), Header: header, Body: body}, nil
}

// Retarget returns what Translate returns for n. request is that for like, from which n differs only
// in its ID and token.
func (p *Provider) Retarget(request *wire.Request, like, n *push.Notification) (*wire.Request, error) {
	if n.Kind() != push.ToToken || like.Kind() != push.ToToken {
		return p.Translate(n)
	}
	if err := checkTarget(&n.Target); err != nil {
		return nil, err
	}
	header := make([]wire.Field, len(request.Header), len(request.Header)+1) // and the credential
	for i, f := range request.Header {
		if f.Name == "apns-id" {
			f.Value = n.ID
		}
		header[i] = f
	}
	return &wire.Request{Method: request.Method, Path: devicePath(n), Header: header, Body: request.Body}, nil
}

func devicePath(n *push.Notification) string { return "/3/device/" + strings.ToLower(n.Token) }

// Sign returns the header field with the provider token, which every request needs; its name is
// empty if the credential is a certificate. used is for Judge. If no token can be created, failed is
// the outcome of the attempt.
func (p *Provider) Sign(context.Context, *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	if p.signer == nil {
		return wire.Field{}, nil, nil
	}
	t, err := p.signer.token()
	if err != nil {
		return wire.Field{}, nil, &push.Outcome{Verdict: push.Unauthorized, Reason: "TOKEN_NOT_MINTED", Scope: push.ScopeCredential}
	}
	return t.field, t, nil
}

// Judge returns the outcome of an attempt that got a response or the error of a wire.Doer. used is
// the result of Sign.
func (p *Provider) Judge(n *push.Notification, used any, response *wire.Response, err error) push.Outcome {
	t, _ := used.(*token)
	if err != nil {
		return p.judgeNoResponse(err, t)
	}
	o := p.judge(response, n.Kind() == push.ToChannel, t)
	if o.Verdict == push.Accepted {
		o.ProviderID = providerID(response, n)
	}
	return o
}
