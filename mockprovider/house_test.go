// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/mockprovider"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	goodToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	goodID    = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	hello     = `{"aps":{"alert":{"title":"Hello","body":"World"},"sound":"default"}}`
	fcmToken  = "dGhpcy1pcy1hLUZJRC0wMQ:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"
)

// privateKey reads a PKCS #8 key.
func privateKey[K any](t testing.TB, text []byte) K {
	t.Helper()
	block, _ := pem.Decode(text)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(K)
}

func part(v any) string {
	raw, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(raw)
}

type object = map[string]any

// signES256 makes a token by the letter of RFC 7515, without a library.
func signES256(t testing.TB, key *ecdsa.PrivateKey, header, claims object) string {
	t.Helper()
	signed := part(header) + "." + part(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func signRS256(t testing.TB, key *rsa.PrivateKey, header, claims object) string {
	t.Helper()
	signed := part(header) + "." + part(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, 5, digest[:]) // 5 is crypto.SHA256
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// providerToken is an APNs JWT of that age.
func providerToken(t testing.TB, c mockprovider.Credential, age time.Duration) string {
	t.Helper()
	return signES256(t, privateKey[*ecdsa.PrivateKey](t, c.KeyPEM),
		object{"alg": "ES256", "kid": c.KeyID}, object{"iss": c.TeamID, "iat": time.Now().Add(-age).Unix()})
}

// client is net/http's, over HTTP/2 or 1.1, that trusts the mock.
func client(t testing.TB, m *mockprovider.Mock, certs ...tls.Certificate) *http.Client {
	t.Helper()
	config := m.ClientTLS()
	config.Certificates = certs
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	body   string
	object object
}

func do(t testing.TB, c *http.Client, r *http.Request) reply {
	t.Helper()
	answer, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := reply{status: answer.StatusCode, header: answer.Header, body: string(body)}
	_ = json.Unmarshal(body, &got.object)
	return got
}

// push makes a good APNs request, that change may spoil.
func push(t testing.TB, m *mockprovider.Mock, change func(*http.Request)) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST",
		"https://"+m.APNsAddrs()[0].String()+"/3/device/"+goodToken, strings.NewReader(hello))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"authorization": "bearer " + providerToken(t, m.Credentials()[0], 0), "apns-id": goodID,
		"apns-topic": "com.example.app", "apns-push-type": "alert", "apns-priority": "10", "apns-expiration": "0",
	} {
		r.Header.Set(name, value)
	}
	if change != nil {
		change(r)
	}
	return r
}

// assertion is the service account's JWT, that change may spoil.
func assertion(t testing.TB, m *mockprovider.Mock, change func(header, claims object)) string {
	t.Helper()
	file, err := m.ServiceAccount()
	if err != nil {
		t.Fatal(err)
	}
	var account struct {
		Email   string `json:"client_email"`
		Key     string `json:"private_key"`
		KeyID   string `json:"private_key_id"`
		TokenTo string `json:"token_uri"`
	}
	if err := json.Unmarshal(file, &account); err != nil {
		t.Fatal(err)
	}
	header := object{"alg": "RS256", "typ": "JWT", "kid": account.KeyID}
	claims := object{
		"iss": account.Email, "scope": "https://www.googleapis.com/auth/firebase.messaging", "aud": account.TokenTo,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if change != nil {
		change(header, claims)
	}
	return signRS256(t, privateKey[*rsa.PrivateKey](t, []byte(account.Key)), header, claims)
}

func exchange(t testing.TB, m *mockprovider.Mock, form url.Values) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST", m.TokenURL(), strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return do(t, client(t, m), r)
}

// grantForm asks for an access token.
func grantForm(assertion string) url.Values {
	return url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
}

// accessToken goes the whole way for a good one.
func accessToken(t testing.TB, m *mockprovider.Mock) string {
	t.Helper()
	got := exchange(t, m, grantForm(assertion(t, m, nil)))
	token, _ := got.object["access_token"].(string)
	if got.status != 200 || token == "" {
		t.Fatalf("token endpoint answered %d %s", got.status, got.body)
	}
	return token
}

// message makes a request to FCM.
func message(t testing.TB, m *mockprovider.Mock, access, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST",
		m.FCMURL()+"/v1/projects/"+m.ProjectID()+"/messages:send", bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+access)
	r.Header.Set("Content-Type", "application/json; charset=UTF-8")
	return r
}

// addrOf is the address in a URL.
func addrOf(t testing.TB, link string) netip.AddrPort {
	t.Helper()
	at, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netip.ParseAddrPort(at.Host)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
