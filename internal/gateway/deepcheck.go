// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// DeepChecks returns the conditions of Checks, and asks each provider with a request that delivers
// nothing whether it accepts the credential, the topic and the project. It connects to webhooks and
// compares the clock of this machine with those of the services. The errors are *Problem where the
// mistake is recognized.
func (g *Gateway) DeepChecks() []Check {
	snap := g.current.Load()
	checks := localChecks(snap)
	for _, s := range snap.activeServices() {
		checks = append(checks, deepServiceChecks(snap, s)...)
	}
	for _, o := range snap.originRouters {
		checks = append(checks, o.deepChecks(snap.cfg)...)
	}
	checks = append(checks, webhookChecks(snap)...)
	checks = append(checks, signInChecks(snap, true)...)
	if sources := clockSources(snap); len(sources) > 0 {
		checks = append(checks, Check{Key: "clock", Verify: func(ctx context.Context) (string, error) { return verifyClock(ctx, sources) }})
	}
	return withApps(snap.cfg, checks)
}

// deepServiceChecks returns one check for each app that uses a service. They share a connection: Apple
// treats many connections in a short time as an attack.
func deepServiceChecks(snap *snapshot, s *usedService) (checks []Check) {
	conn := &sharedConn{service: s.service, users: len(s.paths)}
	for _, path := range s.paths {
		app := snap.cfg.Apps[appOfPath(path)]
		var probe func(ctx context.Context) (string, error)
		if s.settings.platform == push.APNs {
			probe = (&apnsProbe{conn, path, app.APNs, snap.apple[appOfPath(path)].provider, newPeer(snap.cfg, path, "url", s.peerName(), app.APNs.Proxy)}).run
		} else {
			probe = (&fcmProbe{conn, path, app.FCM, s.cred, newPeer(snap.cfg, path, "url", s.peerName(), app.FCM.Proxy), snap}).run
		}
		checks = append(checks, Check{Key: path, Verify: func(ctx context.Context) (string, error) {
			defer conn.release()
			return probe(ctx)
		}})
	}
	return checks
}

// peerName returns the host and port of the service.
func (s *service) peerName() string {
	base, err := url.Parse(string(s.settings.base))
	if err != nil {
		return string(s.settings.base)
	}
	return hostPort(base)
}

// sharedConn is the connection that several checks of a service use.
type sharedConn struct {
	*service

	mu    sync.Mutex
	users int // checks that have not ended
	conn  pool.Conn
	err   error
	close func() // ends the connection and waits for its end; nil without a connection
}

// get returns the connection, or the error of the first attempt to connect.
func (c *sharedConn) get(ctx context.Context) (pool.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil && c.err == nil {
		c.conn, c.close, c.err = c.dial(ctx)
	}
	return c.conn, c.err
}

// dial opens a connection. Its caller calls end.
func (c *sharedConn) dial(ctx context.Context) (conn pool.Conn, end func(), err error) {
	if conn, _, err = c.connect(ctx); err != nil {
		return nil, nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = conn.Run(running) // requests report its error
	}()
	return conn, func() { stop(); <-ended }, nil
}

// drop ends the connection, so that the next check opens another one.
func (c *sharedConn) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.close != nil {
		c.close()
	}
	c.conn, c.close = nil, nil
}

// release ends the use of one check.
func (c *sharedConn) release() {
	c.mu.Lock()
	c.users--
	last := c.users == 0
	c.mu.Unlock()
	if last {
		c.drop()
	}
}

// deepChecks returns the checks of the Web Push block: what can be verified without a subscription.
func (o *originRouter) deepChecks(cfg *config.Config) []Check {
	checks := []Check{{Key: o.path(), Verify: o.verifyKey}}
	for _, origin := range o.provider.PublicOrigins() {
		checks = append(checks, Check{Key: o.path(), Verify: func(ctx context.Context) (string, error) {
			s, err := o.newService(origin)
			if err != nil {
				return "", err
			}
			found, err := s.verifyReachable(ctx)
			if err != nil {
				urlKey := "services"
				if o.config.URL != "" {
					urlKey = "url"
				}
				return "", newPeer(cfg, o.path(), urlKey, s.peerName(), o.config.Proxy).problem(err)
			}
			return found, nil
		}})
	}
	return checks
}

// verifyKey verifies the key pair, its signature and the subject.
func (o *originRouter) verifyKey(ctx context.Context) (string, error) {
	text, err := readFile(o.path(), "vapid_key_file", o.config.VAPIDKeyFile)
	if err != nil {
		return "", err
	}
	if stated := webpush.StatedPublicKey(text); stated != "" && stated != o.publicKey {
		return "", &Problem{o.path() + ".vapid_key_file",
			fmt.Sprintf("the keys do not match: the first line names the public key %s, but the private key belongs to %s", stated, o.publicKey),
			"use the private key of the pair whose public key the web pages pass to pushManager.subscribe: subscriptions are only valid with it"}
	}
	if webpush.AppleRefusesSubject(o.config.Subject) && o.provider.AllowsApple() {
		return "", &Problem{o.path() + ".subject", "Apple refuses the subject with BadJwtToken",
			"set a mailto: address or an https: URL with a public host name, such as mailto:push@example.com"}
	}
	if err := o.provider.Authorize(ctx); err != nil {
		return "", &Problem{o.path() + ".vapid_key_file", err.Error(), "create a key pair with gateway key vapid"}
	}
	return "can sign for the public key " + o.publicKey + "; web pages must pass it to pushManager.subscribe", nil
}

// webhookChecks returns a check for each webhook, which connects to the receiver and posts nothing.
func webhookChecks(snap *snapshot) (checks []Check) {
	for _, app := range slices.Sorted(maps.Keys(snap.cfg.Apps)) {
		for i := range snap.cfg.Apps[app].Webhooks {
			block := &snap.cfg.Apps[app].Webhooks[i]
			hook, path := snap.webhooks[app+"/"+block.Name], fmt.Sprintf("apps.%s.webhooks[%d]", app, i)
			checks = append(checks, Check{Key: path, Verify: func(ctx context.Context) (string, error) {
				if err := hook.Verify(ctx); err != nil {
					return "", newPeer(snap.cfg, path, "url", "the receiver", block.Proxy).problem(err)
				}
				return "connected to the receiver " + block.Name + "; nothing was posted", nil
			}})
		}
	}
	return checks
}

// maxClockSkew is how far the clock of this machine may differ from that of a service. A tolerance of
// Apple is not documented; the tokens of Google may be a few minutes old.
const maxClockSkew = time.Minute

// maxClockSources limits how many services are asked for the time.
const maxClockSources = 4

// clockSource is a service that sends its time in the header field Date.
type clockSource struct {
	name string
	date func(ctx context.Context) (string, error)
}

// clockSources returns services of the configuration that send their time. APNs does not.
func clockSources(snap *snapshot) (sources []clockSource) {
	names := map[string]bool{}
	add := func(name string, date func(ctx context.Context) (string, error)) {
		if !names[name] && len(sources) < maxClockSources {
			names[name] = true
			sources = append(sources, clockSource{name, date})
		}
	}
	for _, s := range snap.activeServices() {
		if s.settings.platform != push.FCM {
			continue
		}
		if client, token := s.tokenEndpoint(snap); client != nil {
			add(hostPort(token), func(ctx context.Context) (string, error) { return headDate(ctx, client, token) })
		}
		add(s.peerName(), s.date)
	}
	for _, o := range snap.originRouters {
		for _, origin := range o.provider.PublicOrigins() {
			if s, err := o.newService(origin); err == nil {
				add(s.peerName(), s.date)
			}
		}
	}
	return sources
}

// tokenEndpoint returns the URL of the token endpoint of an FCM service, and the client for it; nil if
// the credential file does not name one.
func (s *usedService) tokenEndpoint(snap *snapshot) (*http.Client, *url.URL) {
	account := s.cred.fcm.Account()
	token, err := url.Parse(account.TokenURL)
	if err != nil || token.Host == "" {
		return nil, nil
	}
	return snap.files.tokenClient(transportKey{s.settings.roots, s.settings.proxy}), token
}

// headDate returns the Date of a response to HEAD.
func headDate(ctx context.Context, client *http.Client, to *url.URL) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, to.String(), nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	return response.Header.Get("Date"), response.Body.Close()
}

// date returns the Date of a response of the service to a request that delivers nothing.
func (s *service) date(ctx context.Context) (string, error) {
	shared := &sharedConn{service: s}
	conn, end, err := shared.dial(ctx)
	if err != nil {
		return "", err
	}
	defer end()
	response, err := conn.Do(ctx, &wire.Request{Method: "GET", Path: "/"})
	if err != nil {
		return "", err
	}
	return response.Get("date"), nil
}

// verifyClock compares the clock with those of the services. One of them is enough: the others may be
// unreachable, which other checks report.
func verifyClock(ctx context.Context, sources []clockSource) (string, error) {
	var names []string
	for _, source := range sources {
		before := time.Now()
		text, err := source.date(ctx)
		date, parseErr := http.ParseTime(text)
		if err != nil || parseErr != nil {
			continue
		}
		now := time.Now()
		middle := before.Add(now.Sub(before) / 2)
		switch skew := date.Sub(middle); {
		case skew.Abs()-now.Sub(before)/2 > maxClockSkew:
			relation := "ahead of"
			if skew > 0 {
				relation = "behind"
			}
			return "", &Problem{"clock", fmt.Sprintf("the clock of this machine (%s) is %s %s that of %s", middle.UTC().Format(time.RFC3339), skew.Abs().Round(time.Second), relation, source.name),
				"synchronize it, for example with chrony or systemd-timesyncd: the providers refuse tokens with a wrong time"}
		default:
			names = append(names, source.name)
		}
	}
	if names == nil {
		return "not compared: no service sent its time", nil
	}
	return fmt.Sprintf("within %s of %s", maxClockSkew, strings.Join(names, ", ")), nil
}

// exchange makes one request on the connection and returns its outcome. A failure to connect is an
// error.
func (c *sharedConn) exchange(ctx context.Context, request *wire.Request, field wire.Field, judge func(*wire.Response, error) push.Outcome) (push.Outcome, error) {
	conn, err := c.get(ctx)
	if err != nil {
		return push.Outcome{}, err
	}
	signed := *request
	if field.Name != "" {
		signed.Header = append(slices.Clone(request.Header), field)
	}
	response, err := conn.Do(ctx, &signed)
	o := judge(response, err)
	if err != nil || o.CloseConnection {
		c.drop()
	}
	return o, nil
}

// unexpected returns the problem of an outcome that says nothing about the configuration.
func (p peer) unexpected(o push.Outcome) *Problem {
	seen := fmt.Sprintf("%s answered the test request with %s", p.name, describeOutcome(o))
	switch {
	case o.Reason == push.IntermediaryResponse:
		return &Problem{p.urlKey, seen + ": the response is not from the service", "check the URL, the proxy and the firewall between this machine and " + p.name}
	case o.Verdict == push.Throttled:
		return &Problem{p.path, seen, "the quota is used up: run the check again later"}
	case o.HTTP == 0:
		return &Problem{p.urlKey, fmt.Sprintf("%s did not answer the test request: %s", p.name, o.Reason), "run the check again; if it fails again, check the firewall between this machine and " + p.name}
	case o.Retryable():
		return &Problem{p.path, seen, "the service does not work at the moment: run the check again later"}
	}
	return &Problem{p.path, seen, "look up the reason in the documentation of the service"}
}

// describeOutcome returns the status and the reason of a response.
func describeOutcome(o push.Outcome) string {
	text := strings.TrimSpace(fmt.Sprint(o.HTTP, " ", o.Reason))
	if o.Detail != "" && o.Reason != push.IntermediaryResponse {
		text += " (" + o.Detail + ")"
	}
	return text
}

// fcmProbe asks FCM to validate a message to a topic.
type fcmProbe struct {
	conn *sharedConn
	path string
	cfg  *config.FCM
	cred *credential
	peer peer
	snap *snapshot
}

// probeTopic is the topic that FCM is asked about. Nothing is delivered to it.
const probeTopic = "sluice-check"

func (p *fcmProbe) run(ctx context.Context) (string, error) {
	n := &push.Notification{App: appOfPath(p.path), Platform: push.FCM, Target: push.Target{Topic: probeTopic}, Title: "check", FCM: &push.FCMBlock{ValidateOnly: true}}
	provider := p.cred.fcm
	request, err := provider.Translate(n)
	if err != nil {
		return "", err
	}
	field, used, failed := provider.Sign(ctx, n)
	if failed != nil {
		return "", p.tokenProblem(ctx, *failed)
	}
	o, err := p.conn.exchange(ctx, request, field, func(r *wire.Response, err error) push.Outcome { return provider.Judge(n, used, r, err) })
	switch {
	case err != nil:
		return "", p.peer.problem(err)
	case o.Verdict == push.Accepted:
		return fmt.Sprintf("FCM accepts %s for the project %s; nothing was sent", p.account(), p.cred.label), nil
	}
	return "", p.problem(o)
}

// account names the account.
func (p *fcmProbe) account() string {
	if email := p.cred.fcm.Account().Email; email != "" {
		return "the service account " + email
	}
	return "the account of " + p.cred.source
}

// problem returns the problem that FCM's response shows.
func (p *fcmProbe) problem(o push.Outcome) *Problem {
	seen, project, own := fmt.Sprintf("FCM answered %d %s", o.HTTP, o.Reason), p.cred.label, p.cred.fcm.Account().Project
	switch o.Reason {
	case "PERMISSION_DENIED", "CONSUMER_INVALID", "NOT_FOUND":
		if own != "" && own != project {
			return &Problem{p.path + ".project_id", fmt.Sprintf("%s: %s belongs to the project %s, and project_id is %s", seen, p.account(), own, project),
				fmt.Sprintf("remove project_id or set it to %s; to send in the other project, grant the account the role Firebase Cloud Messaging API Admin there", own)}
		}
		if o.Reason == "PERMISSION_DENIED" {
			return &Problem{p.path + ".service_account_file", fmt.Sprintf("%s: %s must not send in the project %s", seen, p.account(), project),
				"grant it the role Firebase Cloud Messaging API Admin (permission cloudmessaging.messages.create) in the Google Cloud console, IAM"}
		}
		return &Problem{p.path + ".project_id", fmt.Sprintf("%s: there is no project %s", seen, project), "set project_id to the ID in the Firebase console, Project settings"}
	case "SERVICE_DISABLED":
		return &Problem{p.path + ".project_id", fmt.Sprintf("%s: the Firebase Cloud Messaging API is disabled in the project %s", seen, project),
			"enable it: https://console.cloud.google.com/apis/library/fcm.googleapis.com?project=" + url.QueryEscape(project)}
	case "BILLING_DISABLED", "CONSUMER_SUSPENDED":
		return &Problem{p.path + ".project_id", seen, "check the project " + project + " in the Google Cloud console: " + o.Detail}
	case "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		return &Problem{p.path + ".service_account_file", seen, o.Detail}
	case "UNAUTHENTICATED":
		return &Problem{p.path + ".service_account_file", seen + ": the access token is not accepted", "check token_url and url: both must belong to the same service"}
	}
	return p.peer.unexpected(o)
}

// tokenProblem returns the problem of a failed exchange for an access token.
func (p *fcmProbe) tokenProblem(ctx context.Context, o push.Outcome) error {
	seen := "the token endpoint refuses " + p.account() + ": " + o.Reason
	file := p.path + ".service_account_file"
	switch {
	case o.Reason == "invalid_grant" && strings.Contains(o.Detail, "clock"):
		return &Problem{"clock", seen + ", because of the time in the request", o.Detail}
	case o.Reason == "invalid_grant" && o.Detail != "":
		return &Problem{file, seen, o.Detail}
	case o.Verdict == push.Unauthorized:
		return &Problem{file, seen, "create a new key of the service account (Firebase console, Project settings, Service accounts), and correct this machine's clock if it is wrong"}
	case o.Reason != "OAUTH_UNAVAILABLE":
		return &Problem{file, fmt.Sprintf("no access token for %s: %s (%s)", p.account(), o.Reason, o.Detail), "correct the credential file; if the response is not from the token endpoint, check the proxy and the firewall"}
	}
	s := usedService{service: p.conn.service}
	client, token := s.tokenEndpoint(p.snap)
	if client == nil {
		return &Problem{file, "no access token: " + o.Detail, "check the proxy and the firewall"}
	}
	urlKey := "service_account_file"
	if p.cfg.TokenURL != "" {
		urlKey = "token_url"
	}
	peer := newPeer(p.snap.cfg, p.path, urlKey, hostPort(token), p.cfg.Proxy)
	if _, err := headDate(ctx, client, token); err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err
		}
		return peer.problem(err)
	}
	return &Problem{file, "no access token: " + o.Reason + " " + o.Detail, "the token endpoint does not work at the moment: run the check again later"}
}
