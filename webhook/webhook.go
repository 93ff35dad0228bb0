// SPDX-License-Identifier: Apache-2.0

// Package webhook verifies the messages that a gateway posts to a webhook, according to Standard
// Webhooks 1.0.0 (https://www.standardwebhooks.com). It is for receivers. It does not read requests
// and does not detect repeated messages: two messages with the same Webhook-Id header are the same
// message, and a receiver that must not process one twice remembers the IDs.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is the largest accepted difference between a message's timestamp and the receiver's
// clock, in both directions. It limits how long a captured message can be replayed.
const Tolerance = 5 * time.Minute

// Errors of Verify. A receiver answers all of them with a 4xx status and ignores the message.
var (
	// ErrHeader means that Webhook-Id, Webhook-Timestamp or Webhook-Signature is missing, or that the
	// timestamp is not a number.
	ErrHeader = errors.New("webhook: a Webhook-* header is missing or malformed")
	// ErrTimestamp means that the message is too old, or that one of the clocks is wrong.
	ErrTimestamp = errors.New("webhook: the timestamp is more than 5 minutes from the current time")
	// ErrSignature means that no signature matches any of the secrets.
	ErrSignature = errors.New("webhook: no signature matches")
)

// Verifier verifies messages. It is safe for concurrent use. Make one with NewVerifier.
type Verifier struct {
	secrets [][]byte
}

// NewVerifier returns a Verifier for messages that are signed with at least one of the secrets. Each
// secret has the form in which the gateway's configuration has it: "whsec_" and 24 to 64 bytes in
// base64. To rotate a secret, pass the old and the new one. An error does not contain a secret.
func NewVerifier(secrets ...string) (*Verifier, error) {
	if len(secrets) == 0 {
		return nil, errors.New("webhook: NewVerifier needs at least one secret")
	}
	v := &Verifier{}
	for i, text := range secrets {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(text), "whsec_")
		secret, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
			return nil, fmt.Errorf("webhook: secret %d must be whsec_ and 24 to 64 bytes in base64", i)
		}
		v.secrets = append(v.secrets, secret)
	}
	return v, nil
}

// Verify returns nil if the message is signed with one of the secrets and its timestamp is within
// Tolerance. h holds the headers of the request, and body holds its body exactly as received: a body
// that was decoded and encoded again does not match. Otherwise the error is ErrHeader, ErrTimestamp
// or ErrSignature.
func (v *Verifier) Verify(h http.Header, body []byte) error {
	id, timestamp, signatures := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), h.Get("Webhook-Signature")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || id == "" || signatures == "" {
		return ErrHeader
	}
	if time.Since(time.Unix(seconds, 0)).Abs() > Tolerance {
		return ErrTimestamp
	}
	for _, secret := range v.secrets {
		want := sign(secret, id, timestamp, body)
		for signature := range strings.SplitSeq(signatures, " ") {
			if hmac.Equal([]byte(signature), want) { // constant time
				return nil
			}
		}
	}
	return ErrSignature
}

// sign returns the signature of a message as the header contains it.
func sign(secret []byte, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, secret)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	_, _ = mac.Write(body)
	return base64.StdEncoding.AppendEncode([]byte("v1,"), mac.Sum(nil))
}

// String keeps the secrets out of logs.
func (*Verifier) String() string { return "webhook.Verifier" }

// GoString keeps the secrets out of %#v.
func (*Verifier) GoString() string { return "webhook.Verifier" }
