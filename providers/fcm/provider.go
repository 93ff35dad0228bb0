// SPDX-License-Identifier: Apache-2.0

// Package fcm speaks the HTTP v1 protocol of Firebase Cloud Messaging: the
// request, the access token, and the table from Google's error to our verdict.
// It keeps no connection to FCM and never repeats a request.
//
// What the common fields of a notification become. A token does not tell which
// device is behind it, so whatever Android, Apple and browsers each want said
// in their own way is said in all of them. fcm.message is merged over the
// result, object by object, and wins.
//
//	title, body, image   notification; image asks Apple for mutable-content, too
//	subtitle             apns: aps.alert, with title and body
//	badge                apns: aps.badge (Android counts by itself)
//	sound                android.notification.sound where something is shown; apns: aps.sound
//	data                 data
//	data alone           apns: content-available and push type background, so that it reaches a sleeping app
//	priority             android.priority HIGH, else NORMAL; apns-priority 10, 5, 1 (5 for data alone); Urgency
//	ttl                  android.ttl and web push TTL, what is left of it; apns-expiration
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

// Config is one service account and the project that it sends for.
type Config struct {
	// Account is the text of a credential's file (JSON): a service account's
	// key; or an external account, for a workload outside of Google Cloud; or
	// a service account that another one speaks for. The latter two name URLs
	// and files, and these are used: take them from nobody but the operator.
	Account []byte
	// Machine asks the metadata server of Google Cloud for the service account
	// that this machine runs as. Account is then empty.
	MetadataServer bool
	// Project is the ID or the number of the Firebase project. Empty means the
	// project that the account's file names, which only a key file does.
	Project string
	// TokenURL takes the place of the token endpoint that a key file names.
	// Other accounts cannot have one.
	TokenURL string
	// TokenClient carries the exchanges for access tokens. Only its Transport
	// is used; nil is http.DefaultTransport, and for Machine one without a
	// proxy.
	TokenClient *http.Client
	// Logger hears of exchanges that fail; nil hears nothing.
	Logger *slog.Logger
}

// Provider translates notifications for FCM and judges its answers. It is safe
// for use by many goroutines.
type Provider struct {
	project, path string
	tokens        *tokenCache
}

// New returns a provider and exchanges nothing yet. An error says what is
// wrong with cfg and never what is in the account's file.
func New(cfg Config) (*Provider, error) {
	ask, project, err := cfg.credential()
	if err != nil {
		return nil, err
	}
	if project = cmp.Or(cfg.Project, project); !isProject(project) {
		return nil, errors.New("fcm: project: must be a Firebase project's ID or number (of the account's files only a key names one: project_id)")
	}
	log := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return &Provider{
		project: project,
		path:    "/v1/projects/" + project + "/messages:send",
		tokens:  newTokens(withTransport(ask, cfg.transport()), log),
	}, nil
}

// credential returns how to get an access token, and the account's own project.
func (c *Config) credential() (ask tokenSource, project string, err error) {
	if c.MetadataServer {
		if len(c.Account) > 0 || c.TokenURL != "" {
			return nil, "", errors.New("fcm: account: the machine's own needs neither a file nor a token URL")
		}
		return metadataToken, "", nil
	}
	account, err := parseAccount(c.Account)
	if err != nil {
		return nil, "", err
	}
	if c.TokenURL != "" {
		if account.Type != google.ServiceAccount || !isHTTPS(c.TokenURL) {
			return nil, "", errors.New("fcm: token URL: must be an https URL, and the account a service account's key")
		}
		account.TokenURI = c.TokenURL
	}
	return account.fetchToken, account.ProjectID, nil
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

// isProject lets in IDs, numbers and the old IDs with a domain before a colon.
var isProject = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,99}$`).MatchString

// Project is the Firebase project that messages are sent in.
func (p *Provider) Project() string { return p.project }

// Run keeps the access token fresh, so that no notification waits for one. It
// ends when ctx does, and returns nil then. Without it, the notification that
// finds no token fetches one.
func (p *Provider) Run(ctx context.Context) error {
	p.tokens.keepFresh(ctx)
	return nil
}

// Authorize makes sure that there is a credential to send with, and fetches
// one where it must. Sending does so by itself: this is for those who want to
// know before. The error names the reason.
func (p *Provider) Authorize(ctx context.Context) error {
	_, err := p.tokens.token(ctx)
	return err
}

// Translate checks n and writes it as FCM's request: all but the access token.
// A misfit is a *push.FieldError.
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

// header is every request's, so it is shared and never appended to in place.
var header = []wire.Field{{Name: "content-type", Value: "application/json; charset=UTF-8"}}

// Send makes one attempt with r, as Translate wrote it, on conn and judges the
// answer, once. It leaves r as it is: other attempts may be using it.
func (p *Provider) Send(ctx context.Context, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome {
	used, err := p.tokens.token(ctx)
	if err != nil {
		return noTokenOutcome(err)
	}
	answer, err := conn.Do(ctx, withAuthorization(r, used))
	if err != nil {
		return push.NoResponse(err)
	}
	o, renew := judge(answer, &n.Target)
	if renew {
		o.Renewed = p.tokens.invalidate(used)
	}
	return o
}

// withAuthorization returns r with the access token. It may enter the compression
// table: it weighs a kilobyte, stays the same for half an hour, and nobody can
// guess at it there, for no header of this connection is a stranger's choice
// (RFC 7541, section 7.1.3).
func withAuthorization(r *wire.Request, t *token) *wire.Request {
	signed := *r
	signed.Header = append(append(make([]wire.Field, 0, len(r.Header)+1), r.Header...), wire.Field{Name: "authorization", Value: t.bearer})
	return &signed
}
