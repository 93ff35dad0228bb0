// SPDX-License-Identifier: Apache-2.0

package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The names of the headers and the format of secrets and signatures are those of Standard Webhooks
// 1.0.0 (standardwebhooks.com), which has verification libraries for most languages.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
	secretPrefix    = "whsec_"
)

// Secret is the key that a webhook and its receiver share, 24 to 64 bytes.
type Secret []byte

// ParseSecret parses "whsec_" and base64. An error does not contain the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
		return nil, errors.New("must be whsec_ and 24 to 64 bytes in base64")
	}
	return secret, nil
}

// String keeps the secret out of logs.
func (Secret) String() string { return "webhooks.Secret" }

// GoString keeps the secret out of %#v.
func (s Secret) GoString() string { return s.String() }

// signature returns the signature of a message.
func (s Secret) signature(id, timestamp string, body []byte) string {
	sum := hmac.New(sha256.New, s)
	sum.Write([]byte(id + "." + timestamp + "."))
	sum.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// sign sets the headers of a message that is posted now, with one signature for each secret.
func sign(h http.Header, secrets []Secret, id string, body []byte) {
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = s.signature(id, timestamp, body)
	}
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Set(headerSignature, strings.Join(signatures, " "))
}
