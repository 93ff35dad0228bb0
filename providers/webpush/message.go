// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"fmt"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// message is the plaintext for a service worker, with its members in this order.
type message struct {
	Title    string         `json:"title,omitzero"`
	Subtitle string         `json:"subtitle,omitzero"`
	Body     string         `json:"body,omitzero"`
	Image    string         `json:"image,omitzero"`
	Badge    *int           `json:"app_badge,omitzero"`
	Sound    string         `json:"sound,omitzero"`
	Tag      string         `json:"tag,omitzero"`
	Data     jsontext.Value `json:"data,omitzero"`
	// Other are the options. Those above take precedence, and have a place of their own.
	Other options `json:",embed"`
}

// declarativeMessage is a declarative push message (W3C Push API, Working Draft of 10 September 2025,
// and pull request 402 for app_badge). Browsers recognize it by web_push and not by a content type. One
// that does not know the format gives it to the service worker.
type declarativeMessage struct {
	WebPush      int                     `json:"web_push"`
	Notification declarativeNotification `json:"notification"`
	Badge        *int                    `json:"app_badge,omitzero"`
	Mutable      bool                    `json:"mutable,omitzero"`
	// ForWorker are the members that a service worker reads which does not know the format.
	ForWorker jsontext.Value `json:",embed"`
}

// declarativeNotification has app_badge and mutable too: Safari 18.4 reads both here, and Firefox reads
// mutable here.
type declarativeNotification struct {
	options
	AppBadge *int `json:"app_badge,omitzero"`
	Mutable  bool `json:"mutable,omitzero"`
}

// webPushVersion marks a declarative push message. It is the number of RFC 8030.
const webPushVersion = 8030

// Declarative says for which push services payloads are declarative push messages, if the notification
// has a title and a URL to open and does not choose itself.
type Declarative string

// The choices. The zero value is DeclarativeApple.
const (
	DeclarativeApple  Declarative = "apple"  // for Apple's service: all current browsers of Apple display them
	DeclarativeAlways Declarative = "always" // for all services
	DeclarativeNever  Declarative = "never"
)

// Plaintext returns what Translate encrypts: the payload of the sender unchanged, or one made from
// webpush.notification and the common fields.
func (p *Provider) Plaintext(n *push.Notification) ([]byte, error) {
	if n.WebPush != nil && n.WebPush.Payload != "" {
		return p.rawPlaintext(n)
	}
	o, err := optionsOf(n)
	if err != nil {
		return nil, err
	}
	if err := checkFields(n, &o); err != nil {
		return nil, err
	}
	if o.Navigate == "" {
		o.Navigate = p.navigate
	}
	text, err := marshalMessage(n, o)
	if err != nil {
		return nil, invalid(invalidUTF8Field(n), invalidField, "valid UTF-8")
	}
	if declarative, err := p.isDeclarative(n, &o); err != nil {
		return nil, err
	} else if declarative {
		text, err = marshalDeclarative(n, o, text)
		if err != nil {
			return nil, invalid(invalidUTF8Field(n), invalidField, "valid UTF-8")
		}
	}
	return text, checkSize(text, largestField(n))
}

// rawPlaintext returns the payload of the sender.
func (p *Provider) rawPlaintext(n *push.Notification) ([]byte, error) {
	if n.WebPush.Declarative != nil || len(n.WebPush.Notification) > 0 || n.WebPush.Mutable {
		return nil, invalid("webpush.payload", invalidField, "absent, or webpush.notification, declarative and mutable absent: it replaces the payload that they are for")
	}
	text := []byte(n.WebPush.Payload)
	return text, checkSize(text, "webpush.payload")
}

func checkSize(text []byte, field string) error {
	if len(text) <= maxPlaintext {
		return nil
	}
	return invalid(field, payloadTooLarge, fmt.Sprintf(
		"shorter: the payload has %d bytes before encryption; at most %d bytes are allowed", len(text), maxPlaintext))
}

// isDeclarative reports whether the payload of n is a declarative push message.
func (p *Provider) isDeclarative(n *push.Notification, o *options) (bool, error) {
	switch choice := n.WebPush; {
	case choice == nil || choice.Declarative == nil:
		return o.Navigate != "" && p.prefersDeclarative(n) && o.missing() == nil, nil
	case *choice.Declarative:
		return true, o.missing()
	case choice.Mutable:
		return false, invalid("webpush.mutable", invalidField, "false if webpush.declarative is false")
	}
	return false, nil
}

// prefersDeclarative reports whether the app sends declarative push messages to the service of n.
func (p *Provider) prefersDeclarative(n *push.Notification) bool {
	if p.declarative != DeclarativeApple {
		return p.declarative == DeclarativeAlways
	}
	u, err := p.endpoint(n.Subscription.Endpoint)
	return err == nil && isApple(u)
}

// missing returns the error for a member that a declarative push message needs, or nil.
func (o *options) missing() error {
	switch {
	case o.Title == "":
		return invalid("title", invalidField, "set: a declarative push message needs a title")
	case o.Navigate == "":
		return invalid(optionsField+".navigate", invalidField, httpsURL+": a declarative push message needs a URL to open, here or as webpush.navigate in the app's configuration")
	}
	for i := range o.Actions {
		if o.Actions[i].Navigate == "" {
			return invalid(fmt.Sprintf("%s.actions[%d].navigate", optionsField, i), invalidField, httpsURL+": each action of a declarative push message needs a URL to open")
		}
	}
	return nil
}

// marshalMessage returns the payload for a service worker.
func marshalMessage(n *push.Notification, o options) ([]byte, error) {
	return json.Marshal(&message{Title: o.Title, Subtitle: n.Subtitle, Body: o.Body, Image: o.Image, Badge: n.Badge, Sound: n.Sound, Tag: o.Tag, Data: o.Data, Other: o})
}

// marshalDeclarative returns a declarative push message. forWorker is the payload for a service worker,
// with app_badge. It is left out if both are too large together.
func marshalDeclarative(n *push.Notification, o options, forWorker []byte) ([]byte, error) {
	mutable := n.WebPush != nil && n.WebPush.Mutable
	if n.Subtitle != "" { // which the format does not have
		o.Body = n.Subtitle + "\n" + o.Body
	}
	m := declarativeMessage{
		WebPush: webPushVersion, Notification: declarativeNotification{options: o, AppBadge: n.Badge, Mutable: mutable}, Mutable: mutable, ForWorker: forWorker,
	}
	text, err := json.Marshal(&m)
	if err == nil && len(text) > maxPlaintext {
		m.ForWorker, m.Badge = nil, n.Badge
		return json.Marshal(&m)
	}
	return text, err
}

// checkFields checks the common fields that have more rules than valid UTF-8.
func checkFields(n *push.Notification, o *options) error {
	shown := o.Title != "" || n.Subtitle != "" || o.Body != "" || o.Image != "" || n.Badge != nil || n.Sound != ""
	switch {
	case !shown && o.Data == nil:
		return invalid("body", payloadEmpty, "set, or another visible field, data or webpush.payload: the notification is empty")
	case n.Badge != nil && *n.Badge < 0:
		return invalid("badge", invalidField, "0 or more")
	case n.Image != "" && !isHTTPS(n.Image):
		return invalid("image", invalidField, "an https URL")
	}
	return nil
}

// texts returns the common text fields.
func texts(n *push.Notification) []struct{ name, value string } {
	return []struct{ name, value string }{
		{"body", n.Body}, {"title", n.Title}, {"subtitle", n.Subtitle}, {"image", n.Image}, {"sound", n.Sound},
		{"collapse_key", n.CollapseKey},
	}
}

// invalidUTF8Field returns the field that is not valid UTF-8.
func invalidUTF8Field(n *push.Notification) string {
	for _, f := range texts(n) {
		if !utf8.ValidString(f.value) {
			return f.name
		}
	}
	return "data"
}

// largestField returns the common field that takes the most bytes of the payload.
func largestField(n *push.Notification) string {
	field, size := "data", 0
	if n.WebPush != nil && len(n.WebPush.Notification) > 0 {
		field, size = optionsField, len(n.WebPush.Notification)
	}
	data := 0
	for name, value := range n.Data {
		data += len(name) + len(value)
	}
	if data > size {
		field, size = "data", data
	}
	for _, f := range texts(n) {
		if len(f.value) > size {
			field, size = f.name, len(f.value)
		}
	}
	return field
}
