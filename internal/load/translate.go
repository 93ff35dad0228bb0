// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
)

// Translate converts a notification in the format of sluice to that of another API. topic is the APNs
// topic for gorush, which expects one in each call; the header apns-topic overrides it.
func Translate(api, topic string, n json.RawMessage) (json.RawMessage, error) {
	if api != "gorush" && api != "pushsphere" {
		return n, nil
	}
	p, err := readCommon(n)
	if api == "pushsphere" {
		return mustJSON(map[string]any{
			"provider": map[string]string{"apns": "APPLE", "fcm": "FIREBASE"}[p.Platform], "deviceToken": p.Token,
			"push": map[string]string{"title": p.Title, "body": p.Body},
		}), err
	}
	return mustJSON(map[string]any{
		"tokens": []string{p.Token}, "platform": map[string]int{"apns": 1, "fcm": 2}[p.Platform], "title": p.Title, "message": p.Body,
		"topic": cmp.Or(p.APNs.Headers["apns-topic"], topic),
	}), err
}

// commonNotification holds the members that the other APIs support.
type commonNotification struct {
	Platform, Token, Title, Body string
	APNs                         struct{ Headers map[string]string }
}

// readCommon parses a notification of the mix for another API.
func readCommon(n json.RawMessage) (p commonNotification, err error) {
	if err = json.Unmarshal(n, &p); err == nil && (p.Token == "" || p.Platform != "apns" && p.Platform != "fcm") {
		err = fmt.Errorf("this API supports only notifications to a device token with the platform apns or fcm: %s", n)
	}
	return p, err
}

// mustJSON encodes v, which must be a map of strings and numbers.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
