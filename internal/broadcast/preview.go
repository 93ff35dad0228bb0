// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/push"
)

// Preview is how the message looks for one platform, variant and language.
type Preview struct {
	Platform push.Platform `json:"platform"`
	Variant  string        `json:"variant,omitempty"`
	Language string        `json:"language,omitempty"`
	// Missing are the variables without a default. The text has their names instead.
	Missing []string `json:"missing,omitempty"`
	// Notification has no target.
	Notification *push.Notification `json:"notification"`
	// Request is what the provider gets, and Problem says why it cannot be made. Both are empty if the
	// broadcast does not reach the platform.
	Request  *Request       `json:"request,omitempty"`
	Problem  string         `json:"problem,omitempty"`
	Warnings []push.Warning `json:"warnings,omitempty"`
}

// Previews are those of a broadcast.
type Previews struct {
	Message []Preview `json:"message"`
	Recall  []Preview `json:"recall,omitempty"`
}

// Request is what a provider gets for a message, without the credential.
type Request struct {
	Method  string   `json:"method"`
	URL     string   `json:"url"`
	Headers []Header `json:"headers"`
	// Payload is the body; for Web Push, before its encryption.
	Payload string `json:"payload"`
}

// Header is one header field of a Request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// exampleSubscription is a valid target for a preview.
var exampleSubscription = newExampleSubscription()

func newExampleSubscription() *push.Subscription {
	s := &push.Subscription{Endpoint: "https://updates.push.services.mozilla.com/wpush/v2/example"}
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err == nil {
		s.Keys.P256dh, s.Keys.Auth = base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()), base64.RawURLEncoding.EncodeToString(make([]byte, 16))
	}
	return s
}

// ExampleTarget returns a target of a platform for a preview: that of the audience, or an example of a
// device. It returns false if the audience does not have the platform.
func (a *Audience) ExampleTarget(platform push.Platform) (push.Target, bool) {
	switch target, single := a.target(); {
	case single:
		return target, (platform == push.APNs) == (a.Channel != "") && platform != push.WebPush
	case platform == push.APNs:
		return push.Target{Token: strings.Repeat("0", 64)}, true
	case platform == push.FCM:
		return push.Target{Token: "example:" + strings.Repeat("A", 134)}, true
	default:
		return push.Target{Subscription: exampleSubscription}, true
	}
}

// Preview returns how the messages of a broadcast look for all platforms, variants and languages.
func (m *Manager) Preview(ctx context.Context, app, id string) (all Previews, err error) {
	b, err := m.find(ctx, app, id, 0)
	if err != nil {
		return all, err
	}
	if all.Message, err = m.preview(b, false); err != nil || b.Definition.Recall == nil {
		return all, err
	}
	all.Recall, err = m.preview(b, true)
	return all, err
}

func (m *Manager) preview(b *document, recall bool) (previews []Preview, err error) {
	c, err := b.content(recall)
	if err != nil {
		return nil, err
	}
	for s, n := range c.Samples() {
		previews = append(previews, m.previewOf(b, s, n))
	}
	return previews, nil
}

// previewOf returns the preview of a message to one platform in one language.
func (m *Manager) previewOf(b *document, s audience.Sample, n *push.Notification) Preview {
	n.Platform = s.Platform
	replaceable(n, b.ID)
	p := Preview{Platform: s.Platform, Variant: s.Variant, Language: s.Language, Missing: s.Missing, Notification: n}
	target, reached := b.Audience.ExampleTarget(s.Platform)
	if !reached || m.cfg.Translate == nil {
		return p
	}
	sent := *n
	sent.App, sent.ID, sent.Target = b.App, "00000000-0000-8000-8000-000000000000", target
	request, err := m.cfg.Translate(&sent)
	if p.Request, p.Warnings = request, sent.Warnings; err != nil {
		p.Problem = err.Error()
	}
	return p
}
