// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// apnsProbe asks APNs to deliver to a device token that no device can have.
type apnsProbe struct {
	conn     *sharedConn
	path     string
	cfg      *config.APNs
	provider *apns.Provider
	peer     peer
}

// impossibleToken is well-formed, and no device has it: device tokens are random.
var impossibleToken = strings.Repeat("0", 64)

func (p *apnsProbe) run(ctx context.Context) (string, error) {
	n := &push.Notification{
		ID: uuid.NewString(), App: appOfPath(p.path), Platform: push.APNs, Target: push.Target{Token: impossibleToken}, Title: "check", TTL: new(push.Duration),
	}
	request, err := p.provider.Translate(n)
	if err != nil {
		return "", &Problem{p.path + ".topic", err.Error(), "set topic to the bundle ID of the app, without the suffix of a push type"}
	}
	field, used, failed := p.provider.Sign(ctx, n)
	if failed != nil {
		return "", &Problem{p.path + ".key_file", "no provider token can be signed", "use the .p8 file from Apple's developer site"}
	}
	o, err := p.conn.exchange(ctx, request, field, func(r *wire.Response, err error) push.Outcome { return p.provider.Judge(n, used, r, err) })
	if err != nil {
		return "", p.peer.problem(err)
	}
	if o.Reason == "InvalidProviderToken" {
		return "", p.invalidToken(ctx, n, request)
	}
	switch o.Verdict {
	case push.Accepted:
		return "accepted the test request, although no device can have its token: this is not Apple's service", nil
	case push.Unregistered:
		return p.accepted(), nil
	}
	if o.Reason == "BadDeviceToken" {
		return p.accepted(), nil
	}
	return "", p.problem(o)
}

// accepted says what APNs has accepted.
func (p *apnsProbe) accepted() string {
	topic := p.cfg.Topic
	if topic == "" {
		topic = "of the certificate"
	}
	return fmt.Sprintf("APNs (%s) accepts %s for the topic %s; nothing was sent", p.cfg.Environment, p.credential(), topic)
}

func (p *apnsProbe) credential() string {
	if p.cfg.CertFile != "" {
		return "the certificate"
	}
	return "the key " + p.cfg.KeyID
}

// credentialKey returns the configuration key of the credential.
func (p *apnsProbe) credentialKey() string {
	if p.cfg.CertFile != "" {
		return p.path + ".cert_file"
	}
	return p.path + ".key_id"
}

// problem returns the problem that the response of APNs shows.
func (p *apnsProbe) problem(o push.Outcome) *Problem {
	seen := fmt.Sprintf("APNs answered %d %s", o.HTTP, o.Reason)
	switch o.Reason {
	case "TopicDisallowed", "DeviceTokenNotForTopic", "BadTopic", "MissingTopic":
		return &Problem{p.path + ".topic", fmt.Sprintf("%s: %s must not send to the topic %q", seen, p.credential(), p.cfg.Topic),
			"set topic to the bundle ID of an app of the same team, exactly as in Xcode, without the team ID and without a suffix such as .voip; or use the credential of the team that owns the app"}
	case "BadEnvironmentKeyInToken", "BadEnvironmentKeyIdInToken":
		return &Problem{p.path + ".environment", fmt.Sprintf("%s: the key %s is not valid in %s", seen, p.cfg.KeyID, p.cfg.Environment),
			fmt.Sprintf("set environment: %s, or use a key that Apple's developer site lists for %s", otherEnvironment(p.cfg.Environment), p.cfg.Environment)}
	case "BadCertificateEnvironment":
		return &Problem{p.path + ".environment", fmt.Sprintf("%s: the certificate is not valid in %s", seen, p.cfg.Environment),
			fmt.Sprintf("set environment: %s, or get a certificate for %s from Apple", otherEnvironment(p.cfg.Environment), p.cfg.Environment)}
	case "ExpiredProviderToken":
		return &Problem{"clock", seen + " for a token that was signed just now", "the clock of this machine is more than an hour behind: synchronize it, for example with chrony or systemd-timesyncd"}
	case "BadCertificate", "Forbidden", "UnrelatedKeyIdInToken":
		return &Problem{p.credentialKey(), seen, "check on Apple's developer site that the credential exists and is not revoked, and that it is for push notifications"}
	case "MissingProviderToken":
		return &Problem{p.credentialKey(), seen + ": it did not get a certificate that it accepts",
			"use the provider certificate that Apple issued for this app, or a key_file; if a firewall inspects TLS, exempt " + p.peer.name + " from the inspection"}
	case "TooManyProviderTokenUpdates":
		return &Problem{p.path + ".key_id", seen + ": Apple allows one new token of a key in 20 minutes, and a running gateway has its own",
			"run the check again in 20 minutes; the key and the IDs are probably right"}
	}
	return p.peer.unexpected(o)
}

func otherEnvironment(environment string) push.Environment {
	if environment == string(push.Production) {
		return push.Sandbox
	}
	return push.Production
}

// Times of issue that show whether the clock is ahead: a token is valid for an hour from its time of
// issue. With this age it is still valid if the clock is right.
const earlierIssue = 50 * time.Minute

// invalidToken finds out why APNs does not accept the provider token: it tries tokens that differ from
// it in one respect, each on a connection of its own, because APNs refuses all tokens of a connection
// after an invalid one.
func (p *apnsProbe) invalidToken(ctx context.Context, n *push.Notification, request *wire.Request) *Problem {
	const seen = "APNs answered 403 InvalidProviderToken"
	now, fileID := time.Now(), keyIDOfFile(string(p.cfg.KeyFile))
	for _, guess := range []struct {
		keyID, teamID string
		issuedAt      time.Time
		problem       Problem
	}{
		{p.cfg.TeamID, p.cfg.KeyID, now, Problem{p.path + ".key_id", seen + "; with key_id and team_id swapped it accepts the token",
			fmt.Sprintf("swap them: set key_id: %s and team_id: %s", p.cfg.TeamID, p.cfg.KeyID)}},
		{fileID, p.cfg.TeamID, now, Problem{p.path + ".key_id", fmt.Sprintf("%s; with the key ID in the name of key_file, %s, it accepts the token", seen, fileID),
			"set key_id: " + fileID}},
		{p.cfg.KeyID, p.cfg.TeamID, now.Add(-earlierIssue), Problem{"clock", seen + "; it accepts a token with an earlier time",
			"the clock of this machine is ahead: synchronize it, for example with chrony or systemd-timesyncd"}},
	} {
		if guess.keyID == "" || guess.keyID == p.cfg.KeyID && guess.issuedAt == now {
			continue
		}
		field, err := p.conn.cred.signer.SignAs(guess.keyID, guess.teamID, guess.issuedAt)
		if err != nil {
			break
		}
		p.conn.drop()
		o, err := p.conn.exchange(ctx, request, field, func(r *wire.Response, err error) push.Outcome { return p.provider.Judge(n, nil, r, err) })
		if err != nil || o.HTTP == 0 {
			break
		}
		if o.Reason != "InvalidProviderToken" && o.Verdict != push.Throttled {
			p.conn.drop()
			return &guess.problem
		}
	}
	p.conn.drop()
	hint := ""
	if fileID != "" && fileID != p.cfg.KeyID {
		hint = fmt.Sprintf("; the name of key_file has the key ID %s", fileID)
	}
	return &Problem{p.path + ".key_id", fmt.Sprintf("%s: it does not know the key %s of the team %s, or key_file contains another key%s", seen, p.cfg.KeyID, p.cfg.TeamID, hint),
		"compare key_id and key_file with Apple's developer site, Keys (a revoked key is not listed), and team_id with the membership page"}
}

// keyIDOfFile returns the ID in the name that Apple gives the file of a key, AuthKey_<key ID>.p8, or "".
func keyIDOfFile(file string) string {
	id, found := strings.CutPrefix(strings.TrimSuffix(filepath.Base(file), ".p8"), "AuthKey_")
	if !found || !isTeamID(id) { // both kinds of IDs have the same form
		return ""
	}
	return id
}
