// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/webhook"
)

const (
	secret      = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	otherSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
)

// header returns the headers of a message that is signed at a time, once with each secret.
func header(at time.Time, body string, secrets ...string) http.Header {
	id, timestamp := "msg_1", strconv.FormatInt(at.Unix(), 10)
	var signatures []string
	for _, secret := range secrets {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil {
			panic(err)
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + timestamp + "." + body))
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	h := http.Header{}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", timestamp)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
	return h
}

func verifier(t *testing.T, secrets ...string) *webhook.Verifier {
	t.Helper()
	v, err := webhook.NewVerifier(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	const body = `{"type":"notification.events"}`
	now := time.Now()
	set := func(name, value string) http.Header {
		h := header(now, body, secret)
		h.Set(name, value)
		return h
	}
	for _, c := range []struct {
		name    string
		header  http.Header
		body    string
		secrets []string
		want    error
	}{
		{"valid", header(now, body, secret), body, []string{secret}, nil},
		{"signed with two secrets", header(now, body, otherSecret, secret), body, []string{secret}, nil},
		{"verified with two secrets", header(now, body, secret), body, []string{otherSecret, secret}, nil},
		{"unknown signature versions are skipped", set("Webhook-Signature", "v1a,AAAA v2,AAAA "+header(now, body, secret).Get("Webhook-Signature")), body, []string{secret}, nil},
		{"changed body", header(now, body, secret), body + " ", []string{secret}, webhook.ErrSignature},
		{"changed ID", set("Webhook-Id", "msg_2"), body, []string{secret}, webhook.ErrSignature},
		{"changed timestamp", set("Webhook-Timestamp", strconv.FormatInt(now.Unix()+1, 10)), body, []string{secret}, webhook.ErrSignature},
		{"another secret", header(now, body, otherSecret), body, []string{secret}, webhook.ErrSignature},
		{"truncated signature", set("Webhook-Signature", "v1,"), body, []string{secret}, webhook.ErrSignature},
		{"no headers", http.Header{}, body, []string{secret}, webhook.ErrHeader},
		{"no ID", set("Webhook-Id", ""), body, []string{secret}, webhook.ErrHeader},
		{"no signature", set("Webhook-Signature", ""), body, []string{secret}, webhook.ErrHeader},
		{"malformed timestamp", set("Webhook-Timestamp", "yesterday"), body, []string{secret}, webhook.ErrHeader},
		{"timestamp out of range", set("Webhook-Timestamp", "9223372036854775807"), body, []string{secret}, webhook.ErrTimestamp},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := verifier(t, c.secrets...).Verify(c.header, []byte(c.body)); !errors.Is(err, c.want) {
				t.Errorf("Verify = %v, want %v", err, c.want)
			}
		})
	}
}

func TestTolerance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := verifier(t, secret)
		for offset, want := range map[time.Duration]error{
			-webhook.Tolerance: nil, -webhook.Tolerance - time.Second: webhook.ErrTimestamp,
			webhook.Tolerance: nil, webhook.Tolerance + time.Second: webhook.ErrTimestamp,
		} {
			if err := v.Verify(header(time.Now().Add(offset), "{}", secret), []byte("{}")); !errors.Is(err, want) {
				t.Errorf("signed at %+v: Verify = %v, want %v", offset, err, want)
			}
		}
	})
}

// The test vector comes from the reference libraries of Standard Webhooks.
func TestStandardWebhooksTestVector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Unix(1614265330, 0)))
		h := http.Header{}
		h.Set("Webhook-Id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
		h.Set("Webhook-Timestamp", "1614265330")
		h.Set("Webhook-Signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
		if err := verifier(t, secret).Verify(h, []byte(`{"test": 2432232314}`)); err != nil {
			t.Error(err)
		}
	})
}

func TestNewVerifierRejectsInvalidSecrets(t *testing.T) {
	if _, err := webhook.NewVerifier(); err == nil {
		t.Error("NewVerifier accepts no secrets")
	}
	for _, text := range []string{"", "whsec_", "whsec_c2hvcnQ=", "whsec_***", strings.TrimPrefix(otherSecret, "whsec_")} {
		_, err := webhook.NewVerifier(secret, text)
		if err == nil || !strings.Contains(err.Error(), "secret 1") || len(text) > 6 && strings.Contains(err.Error(), text[6:]) {
			t.Errorf("NewVerifier(%q): %v", text, err)
		}
	}
}

func TestVerifierDoesNotPrintSecrets(t *testing.T) {
	v := verifier(t, otherSecret)
	if got := fmt.Sprintf("%v %+v %#v %s", v, v, v, v); strings.Contains(got, "48") || strings.Contains(got, "0x30") {
		t.Error(got)
	}
}
