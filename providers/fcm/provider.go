// SPDX-License-Identifier: Apache-2.0

// Package fcm implements the HTTP v1 protocol of Firebase Cloud Messaging: the request, the access
// token, and the table that maps FCM's errors to verdicts. It opens no connection to FCM and does not
// retry.
//
// The common fields of a notification are translated as follows. A token does not reveal the platform
// of its device, so the message has the fields for Android, Apple and browsers. fcm.message is merged
// over the result, object by object. What depends on other fields, such as "only data", follows from the
// merged message. If fcm.message has android_v2, the fields for Android are put there.
//
//	title, body, image   notification; image also sets mutable-content for Apple
//	subtitle             apns: aps.alert, with title and body
//	badge                apns: aps.badge (Android counts notifications)
//	sound                android.notification.sound if the notification is visible; apns: aps.sound
//	data                 data
//	only data            apns: content-available and push type background, to reach an app that is not running
//	priority             android.priority HIGH, else NORMAL; apns-priority 10, 5, 1 (5 with only data); Urgency
//	ttl                  the remaining time as android.ttl and web push TTL; apns-expiration
//	collapse_key         android.collapse_key, apns-collapse-id
package fcm

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"

	"golang.org/x/oauth2/google"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Config is a service account and the project that it sends for.
type Config struct {
	// Account is the content of a JSON credential file: a service account key, an external account
	// for a workload outside of Google Cloud, or an impersonated service account. The latter two
	// contain URLs and file names that are used as they are, so only accept them from the operator.
	Account []byte
	// MetadataServer makes the provider use the service account of this machine, from the metadata
	// server of Google Cloud. Account must then be empty.
	MetadataServer bool
	// Project is the ID or number of the Firebase project. Empty means the project in the
	// credential file, which only a service account key has.
	Project string
	// TokenURL replaces the token endpoint of a service account key. It must be empty for other
	// accounts.
	TokenURL string
	// TokenClient makes the exchanges for access tokens. Only its Transport is used. nil means
	// http.DefaultTransport, or for MetadataServer a transport without a proxy.
	TokenClient *http.Client
	// Logger logs failed exchanges; nil disables logging.
	Logger *slog.Logger
}

// Provider translates notifications for FCM and judges the responses. It is safe for concurrent
// use.
type Provider struct {
	project, path string
	account       Account
	tokens        *tokenCache
}

// Account is what a credential file says about the account.
type Account struct {
	// Email identifies the service account. Only a service account key has it.
	Email string
	// Project is the project of the service account. Only a service account key has it.
	Project string
	// TokenURL is where access tokens are fetched with a service account key.
	TokenURL string
}

// New returns a provider. It makes no exchange. An error says what is wrong with cfg and contains
// no part of the credential file.
func New(cfg Config) (*Provider, error) {
	fetch, account, err := cfg.credential()
	if err != nil {
		return nil, err
	}
	project := cmp.Or(cfg.Project, account.Project)
	if !isProject(project) {
		return nil, errors.New("fcm: project: must be the ID or number of a Firebase project (only a service account key sets it, as project_id)")
	}
	log := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return &Provider{
		project: project, account: account,
		path:   "/v1/projects/" + project + "/messages:send",
		tokens: newTokenCache(withTransport(fetch, cfg.transport()), log),
	}, nil
}

// credential returns the source of access tokens and what the credential file says about the account.
func (c *Config) credential() (fetch tokenSource, about Account, err error) {
	if c.MetadataServer {
		if len(c.Account) > 0 || c.TokenURL != "" {
			return nil, about, errors.New("fcm: account: the metadata server allows neither a credential file nor a token URL")
		}
		return metadataToken, about, nil
	}
	account, err := parseAccount(c.Account)
	if err != nil {
		return nil, about, err
	}
	if c.TokenURL != "" {
		if account.Type != google.ServiceAccount || !isHTTPS(c.TokenURL) {
			return nil, about, errors.New("fcm: token URL: must be an https URL, and requires a service account key")
		}
		account.TokenURI = c.TokenURL
	}
	return account.fetchToken, Account{account.ClientEmail, account.ProjectID, account.TokenURI}, nil
}

func (c *Config) transport() http.RoundTripper {
	switch {
	case c.TokenClient != nil && c.TokenClient.Transport != nil:
		return c.TokenClient.Transport
	case c.MetadataServer:
		return directTransport()
	}
	return http.DefaultTransport
}

// isProject matches project IDs, project numbers, and old IDs with a domain and a colon.
var isProject = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,99}$`).MatchString

// Project returns the Firebase project that messages are sent in.
func (p *Provider) Project() string { return p.project }

// Account returns what the credential file says about the account.
func (p *Provider) Account() Account { return p.account }

// Run renews the access token in the background, so that no send waits for an exchange. It returns
// nil when ctx ends. Without Run, a send that finds no valid token fetches one.
func (p *Provider) Run(ctx context.Context) error {
	p.tokens.keepFresh(ctx)
	return nil
}

// Authorize fetches an access token if there is no valid one. Send does that too; Authorize reports
// errors earlier. The error contains the reason.
func (p *Provider) Authorize(ctx context.Context) error {
	_, err := p.tokens.token(ctx)
	return err
}

// Translate checks n and returns the request for it, without the access token. If n is invalid, the
// error is a *push.FieldError.
func (p *Provider) Translate(n *push.Notification) (*wire.Request, error) {
	if err := checkTarget(&n.Target); err != nil {
		return nil, err
	}
	body, err := requestBody(n)
	if err != nil {
		return nil, err
	}
	return &wire.Request{Method: "POST", Path: p.path, Header: header, Body: body}, nil
}

// Retarget returns what Translate returns for n. request is that for like, from which n differs only
// in its ID and target.
func (p *Provider) Retarget(request *wire.Request, like, n *push.Notification) (*wire.Request, error) {
	if isRaw(n) || payloadLimit(n) != payloadLimit(like) {
		return p.Translate(n)
	}
	if err := checkTarget(&n.Target); err != nil {
		return nil, err
	}
	before, start := startBody(like), startBody(n)
	if start.InvalidField != "" {
		return nil, invalid(start.InvalidField, invalidField, "valid UTF-8")
	}
	return &wire.Request{
		Method: request.Method, Path: request.Path, Header: request.Header,
		Body: append(start.Bytes, request.Body[len(before.Bytes):]...),
	}, nil
}

// header is shared by all requests. Do not append to it in place.
var header = []wire.Field{{Name: "content-type", Value: "application/json; charset=UTF-8"}}

// Sign returns the header field with the access token, which every request needs. used is for Judge.
// If there is no access token, failed is the outcome of the attempt. Unlike other secrets, the token
// can be added to the HPACK table: it has about a kilobyte and is used for half an hour. The attack
// of RFC 7541, section 7.1.3, is not possible, because no attacker controls a header field of this
// connection.
func (p *Provider) Sign(ctx context.Context, _ *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	t, err := p.tokens.token(ctx)
	if err != nil {
		o := noTokenOutcome(err)
		return wire.Field{}, nil, &o
	}
	return wire.Field{Name: "authorization", Value: t.bearer}, t, nil
}

// Judge returns the outcome of an attempt that got a response or the error of a wire.Doer. used is
// the result of Sign.
func (p *Provider) Judge(n *push.Notification, used any, response *wire.Response, err error) push.Outcome {
	if err != nil {
		return push.NoResponse(err)
	}
	o, renew := judge(response, &n.Target)
	if t, ok := used.(*token); ok && renew {
		o.Renewed = p.tokens.invalidate(t)
	}
	return o
}
