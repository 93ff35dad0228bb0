// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"
)

// still returns a mock whose services can be asked, and that does not run.
func still(tb testing.TB) *Mock {
	tb.Helper()
	m, err := New(Config{Endpoints: 1, LedgerSize: 100})
	if err != nil {
		tb.Fatal(err)
	}
	m.closeListeners()
	_ = m.admin.listener.Close()
	return m
}

// FuzzEveryService finds no request that breaks a service's door: each is answered in words that can be sent, and what is
// refused has a reason. A request that says GOOD where a credential belongs has one.
func FuzzEveryService(f *testing.F) {
	for _, seed := range []struct {
		service            byte
		method, path, head string
		body               string
	}{
		{0, "POST", "/3/device/00fc13adff785122", "authorization: GOOD\napns-topic: com.example.app\napns-push-type: alert\napns-priority: 10", `{"aps":{"alert":"x"}}`},
		{0, "POST", "/4/broadcasts/apps/com.example.app", "authorization: GOOD\napns-push-type: liveactivity\napns-channel-id: dHN0LXNyY2gtY2hubA==", `{"aps":{"event":"update"}}`},
		{1, "POST", "/1/apps/com.example.app/channels", "authorization: GOOD\napns-request-id: x", `{"message-storage-policy":1,"push-type":"LiveActivity"}`},
		{1, "GET", "/1/apps/com.example.app/all-channels?x", "authorization: GOOD", ""},
		{1, "DELETE", "/1/apps/com.example.app/channels", "authorization: GOOD\napns-channel-id: !", ""},
		{2, "POST", "/v1/projects/demo-project/messages:send", "authorization: GOOD", `{"message":{"token":"a:b","notification":{"title":"x"}}}`},
		{3, "POST", "/token", "", "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b.c"},
		{4, "POST", "/push/x", "authorization: GOOD\nttl: 60\nurgency: high\ntopic: x", ""},
		{4, "POST", "/fcm/send/x", "ttl: -1", "x"},
		{4, "POST", "/Qx", "ttl: 1\ncontent-encoding: aes128gcm", "x"},
	} {
		f.Add(seed.service, seed.method, seed.path, seed.head, []byte(seed.body))
	}
	m := still(f)
	m.access.add("GOOD", accessToken{expires: time.Now().Add(24 * time.Hour), messaging: true})
	known := &m.id.credentials[0]
	proof := vapidProof(f, "https://mock.example")
	f.Fuzz(func(t *testing.T, service byte, method, path, head string, body []byte) {
		name := []string{APNs, APNsManage, FCM, OAuth, WebPush}[service%5]
		good := map[string]string{FCM: "Bearer GOOD", WebPush: proof}[name]
		r := &request{method: method, path: path, authority: "mock.example", body: body[:min(len(body), maxBody)]}
		for line := range strings.Lines(head) {
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if field == "authorization" && value == "GOOD" {
				value = or(good, "GOOD")
			}
			r.header = append(r.header, passing(field, value))
		}
		a := m.services[name][0].does.judge(&peer{bound: known, known: "GOOD", issued: time.Now()}, r)
		switch {
		case a.status < 200 || a.status >= 600, a.accepted != (a.status < 300):
			t.Errorf("%s answers %d, accepted %v", name, a.status, a.accepted)
		case !a.accepted && a.reason == "":
			t.Errorf("%s answers %d without a reason", name, a.status)
		}
		for _, h := range a.header {
			if !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
				t.Errorf("%s answers the field %q: %q", name, h.Name, h.Value)
			}
			if h.Name == "content-type" && strings.HasPrefix(h.Value, "application/json") && len(a.body) > 0 && !json.Valid(a.body) {
				t.Errorf("%s answers %q", name, a.body)
			}
		}
	})
}

// vapidProof is a good one for that origin.
func vapidProof(tb testing.TB, origin string) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	claims := fmt.Sprintf(`{"aud":%q,"exp":%d,"sub":"mailto:ops@example.com"}`, origin, time.Now().Add(23*time.Hour).Unix())
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		tb.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return "vapid t=" + signed + "." + base64.RawURLEncoding.EncodeToString(signature) + ",k=" + base64.RawURLEncoding.EncodeToString(point)
}

// FuzzTheAdministration finds no request that breaks the mock's own API: nothing is answered as a fault of ours.
func FuzzTheAdministration(f *testing.F) {
	for _, seed := range [][3]string{
		{"GET", "/ledger?service=apns&accepted=true&limit=3&await=1", ""}, {"GET", "/ledger?status=x&after=18446744073709551615", ""},
		{"GET", "/ledger/summary", ""}, {"DELETE", "/ledger", ""}, {"GET", "/script", ""},
		{"PUT", "/script", "faults:\n- {service: apns, status: 503, share: 0.5, for: 1s}\n"}, {"PUT", "/script", `{"faults":[{"goaway":{"every":1}}]}`},
		{"DELETE", "/script", ""}, {"POST", "/subscriptions", `{"flavour":"apple","server_key":"BA"}`}, {"DELETE", "/subscriptions?endpoint=https://x/Qx", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	m := still(f)
	door := m.admin.handler()
	gone, leave := context.WithCancel(context.Background())
	leave() // whoever waits for entries has left
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequestWithContext(gone, method, "http://mock.example", strings.NewReader(body))
		if err != nil {
			return
		}
		if r.URL, err = r.URL.Parse(target); err != nil || !strings.HasPrefix(r.URL.Path, "/") {
			return
		}
		w := httptest.NewRecorder()
		door.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %s %q: %d %s", method, target, body, w.Code, w.Body)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: %s", method, target, w.Body)
		}
		m.subscribers.mu.Lock()
		clear(m.subscribers.known)
		m.subscribers.mu.Unlock()
	})
}

// FuzzWhatIsSealedOpens finds no padding, no record size and no text that a browser would read in another way than
// RFC 8188 tells it to.
func FuzzWhatIsSealedOpens(f *testing.F) {
	device, auth, _ := vector(f)
	f.Add([]byte("Hello\x02"), uint32(4096))
	f.Add([]byte("Hello\x02\x00\x00"), uint32(24))
	f.Add([]byte("\x02"), uint32(18))
	f.Add([]byte("Hello\x01"), uint32(17))
	f.Fuzz(func(t *testing.T, padded []byte, size uint32) {
		body := sealing(t, device, auth, padded, size)
		read, err := readSealed(body)
		if fits := size >= 18 && uint64(len(padded)+16) <= uint64(size) && len(padded) > 0; fits != (err == nil) {
			t.Fatalf("a record of %d in %d: %v", len(padded)+16, size, err)
		}
		if err != nil {
			return
		}
		text, err := read.open(device, auth)
		want, whole := bytes.CutSuffix(bytes.TrimRight(padded, "\x00"), []byte{2})
		if whole != (err == nil) || whole && !bytes.Equal(text, want) {
			t.Fatalf("%q opens as %q: %v", padded, text, err)
		}
	})
}

// sealing encrypts a record that is padded already.
func sealing(t *testing.T, device *ecdh.PrivateKey, auth, padded []byte, size uint32) []byte {
	t.Helper()
	ours, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	head := binary.BigEndian.AppendUint32(bytes.Repeat([]byte{7}, 16), size)
	head = append(append(head, 65), ours.PublicKey().Bytes()...)
	// The browser's side of the derivation needs the sender's public key alone; the shared secret is the same.
	key, nonce, err := sealed{salt: head[:16], sender: ours.PublicKey()}.keys(device, auth)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead.Seal(head, nonce, padded, nil)
}
