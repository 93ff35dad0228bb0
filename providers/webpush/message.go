// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"fmt"
	"net/url"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/push"
)

// message is the plaintext that the common fields make, in the order of its members.
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

// plaintext returns what is to be encrypted: the sender's own payload byte for byte, or one made of the common fields.
func plaintext(n *push.Notification) ([]byte, error) {
	text, field := []byte(nil), "webpush.payload"
	switch err := checkFields(n); {
	case err != nil:
		return nil, err
	case isRaw(n):
		text = []byte(n.WebPush.Payload)
	default:
		m := message{n.Title, n.Subtitle, n.Body, n.Image, n.Badge, n.Sound, n.CollapseKey, n.Data}
		if text, err = json.Marshal(&m, json.Deterministic(true)); err != nil {
			return nil, invalid(invalidUTF8Field(n), invalidField, "text in UTF-8")
		}
		field = largestField(n)
	}
	if len(text) > maxPlaintext {
		return nil, invalid(field, payloadTooLarge, fmt.Sprintf(
			"so short that the payload has at most %d bytes before it is encrypted; it has %d", maxPlaintext, len(text)))
	}
	return text, nil
}

func isRaw(n *push.Notification) bool { return n.WebPush != nil && n.WebPush.Payload != "" }

// checkFields checks those common fields whose grammar is more than text.
func checkFields(n *push.Notification) error {
	if isRaw(n) {
		return nil
	}
	shown := n.Title != "" || n.Subtitle != "" || n.Body != "" || n.Image != "" || n.Badge != nil || n.Sound != ""
	switch {
	case !shown && len(n.Data) == 0:
		return invalid("body", payloadEmpty, "given, or another field to show, or data, or webpush.payload: there is nothing to send")
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

// texts are the common fields that are text.
func texts(n *push.Notification) []struct{ name, value string } {
	return []struct{ name, value string }{
		{"body", n.Body}, {"title", n.Title}, {"subtitle", n.Subtitle}, {"image", n.Image}, {"sound", n.Sound},
		{"collapse_key", n.CollapseKey},
	}
}

// invalidUTF8Field returns the field that is not UTF-8.
func invalidUTF8Field(n *push.Notification) string {
	for _, f := range texts(n) {
		if !utf8.ValidString(f.value) {
			return f.name
		}
	}
	return "data"
}

// largestField returns the field that takes most of a common payload.
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
