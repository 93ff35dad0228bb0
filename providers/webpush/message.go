// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"fmt"
	"net/url"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
)

// message is the plaintext made from the common fields, with its members in this order.
type message struct {
	Title    string            `json:"title,omitzero"`
	Subtitle string            `json:"subtitle,omitzero"`
	Body     string            `json:"body,omitzero"`
	Image    string            `json:"image,omitzero"`
	Badge    *int              `json:"app_badge,omitzero"`
	Sound    string            `json:"sound,omitzero"`
	Tag      string            `json:"tag,omitzero"`
	Data     map[string]string `json:"data,omitempty"`
}

// Plaintext returns what Translate encrypts: the payload of the sender unchanged, or one made from the
// common fields.
func Plaintext(n *push.Notification) ([]byte, error) {
	text, field := []byte(nil), "webpush.payload"
	switch err := checkFields(n); {
	case err != nil:
		return nil, err
	case isRaw(n):
		text = []byte(n.WebPush.Payload)
	default:
		m := message{n.Title, n.Subtitle, n.Body, n.Image, n.Badge, n.Sound, n.CollapseKey, n.Data}
		if text, err = json.Marshal(&m, json.Deterministic(true)); err != nil {
			return nil, invalid(invalidUTF8Field(n), invalidField, "valid UTF-8")
		}
		field = largestField(n)
	}
	if len(text) > maxPlaintext {
		return nil, invalid(field, payloadTooLarge, fmt.Sprintf(
			"shorter: the payload has %d bytes before encryption; at most %d bytes are allowed", len(text), maxPlaintext))
	}
	return text, nil
}

func isRaw(n *push.Notification) bool { return n.WebPush != nil && n.WebPush.Payload != "" }

// checkFields checks the common fields that have more rules than valid UTF-8.
func checkFields(n *push.Notification) error {
	if isRaw(n) {
		return nil
	}
	shown := n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Image != "" || n.Badge != nil || n.Sound != ""
	switch {
	case !shown && len(n.Data) == 0:
		return invalid("body", payloadEmpty, "set, or another visible field, data or webpush.payload: the notification is empty")
	case n.Badge != nil && *n.Badge < 0:
		return invalid("badge", invalidField, "0 or more")
	case n.Image != "" && !isImage(n.Image):
		return invalid("image", invalidField, "an https URL")
	}
	return nil
}

func isImage(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

// textFields returns the common text fields.
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
	for name, value := range n.Data {
		size += len(name) + len(value)
	}
	for _, f := range texts(n) {
		if len(f.value) > size {
			field, size = f.name, len(f.value)
		}
	}
	return field
}
