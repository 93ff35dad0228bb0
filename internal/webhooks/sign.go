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

// The headers of a message, and the form of secrets and signatures: Standard Webhooks 1.0.0 (standardwebhooks.com), whose
// libraries verify them in most languages.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
	secretPrefix    = "whsec_"
)

// tolerance is how far a receiver's clock may be from ours.
const tolerance = 5 * time.Minute

// Secret is what a webhook and its receiver share, 24 to 64 bytes.
type Secret []byte

// ParseSecret reads whsec_ and base64. An error does not repeat the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
		return nil, errors.New("must be whsec_ and 24 to 64 bytes in base64")
	}
	return secret, nil
}

// String keeps a secret out of logs.
func (Secret) String() string { return "webhook.Secret" }

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// signature is that of one message at one time.
func (s Secret) signature(id, timestamp string, body []byte) string {
	sum := hmac.New(sha256.New, s)
	sum.Write([]byte(id + "." + timestamp + "."))
	sum.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// sign sets the headers of a message that is posted now.
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

// ErrSignature says that a message was not signed with the secret, or not lately.
var ErrSignature = errors.New("webhook: the message is not signed with this secret, or was not within five minutes")

// Verify is for receivers: it returns nil for a message that was signed with the secret within the last five minutes. Of two
// messages with the same Webhook-Id the second is a repeat.
func Verify(h http.Header, body []byte, secret Secret) error {
	timestamp := h.Get(headerTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > tolerance {
		return ErrSignature
	}
	want := []byte(secret.signature(h.Get(headerID), timestamp, body))
	for given := range strings.SplitSeq(h.Get(headerSignature), " ") {
		if hmac.Equal([]byte(given), want) {
			return nil
		}
	}
	return ErrSignature
}
