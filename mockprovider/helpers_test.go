// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/mockprovider/jwt/jwttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	deviceToken       = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
	apnsID            = "eabeae54-14a8-11e5-b60b-1697f925ec7b"
	payload           = `{"aps":{"alert":{"title":"Hello","body":"World"},"sound":"default"}}`
	registrationToken = "dGhpcy1pcy1hLUZJRC0wMQ:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"
)

// object is a JSON object.
type object = map[string]any

// providerToken returns a provider token of that age.
func providerToken(t testing.TB, c mockprovider.Credential, age time.Duration) string {
	t.Helper()
	return jwttest.ES256(t, jwttest.PrivateKey[*ecdsa.PrivateKey](t, c.KeyPEM),
		object{"alg": "ES256", "kid": c.KeyID}, object{"iss": c.TeamID, "iat": time.Now().Add(-age).Unix()})
}

// newClient returns an HTTP/2 client that trusts the mock.
func newClient(t testing.TB, m *mockprovider.Mock, certs ...tls.Certificate) *http.Client {
	t.Helper()
	config := m.ClientTLS()
	config.Certificates = certs
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// newHTTP1Client returns an HTTP/1.1 client that trusts the mock.
func newHTTP1Client(t testing.TB, m *mockprovider.Mock) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: m.ClientTLS()}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// response is a response with its body.
type response struct {
	status int
	header http.Header
	body   string
	object object // the body, if it is a JSON object
}

func do(t testing.TB, c *http.Client, r *http.Request) response {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := response{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &got.object)
	return got
}

func newRequest(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// call sends a request to the HTTP API of the mock.
func call(t testing.TB, method, url, body string) response {
	t.Helper()
	return do(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, newRequest(t, method, url, body))
}

// setScript replaces the script.
func setScript(t testing.TB, m *mockprovider.Mock, faults ...mockprovider.Fault) {
	t.Helper()
	if err := m.SetScript(mockprovider.Script{Faults: faults}); err != nil {
		t.Fatal(err)
	}
}

// change changes a valid request.
type change func(*http.Request)

func set(name, value string) change { return func(r *http.Request) { r.Header.Set(name, value) } }

func path(p string) change { return func(r *http.Request) { r.URL.Path = p } }

func body(text string) change {
	return func(r *http.Request) {
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
	}
}

// push returns a valid push with changes.
func push(t testing.TB, m *mockprovider.Mock, changes ...change) *http.Request {
	t.Helper()
	r := newRequest(t, "POST", "https://"+m.APNsAddrs()[0].String()+"/3/device/"+deviceToken, payload)
	for name, value := range map[string]string{
		"authorization": "bearer " + providerToken(t, m.Credentials()[0], 0), "apns-id": apnsID,
		"apns-topic": "com.example.app", "apns-push-type": "alert", "apns-priority": "10", "apns-expiration": "0",
	} {
		r.Header.Set(name, value)
	}
	for _, c := range changes {
		c(r)
	}
	return r
}

// createChannel creates a broadcast channel and returns its ID.
func createChannel(t testing.TB, m *mockprovider.Mock) string {
	t.Helper()
	r := newRequest(t, "POST", "https://"+m.APNsManageAddr().String()+"/1/apps/com.example.app/channels",
		`{"message-storage-policy":1,"push-type":"LiveActivity"}`)
	r.Header.Set("authorization", "bearer "+providerToken(t, m.Credentials()[0], 0))
	got := do(t, newClient(t, m), r)
	if got.status != 201 || got.header.Get("apns-channel-id") == "" {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	return got.header.Get("apns-channel-id")
}

// broadcast returns a valid broadcast.
func broadcast(t testing.TB, m *mockprovider.Mock, channel string) *http.Request {
	t.Helper()
	return push(t, m, path("/4/broadcasts/apps/com.example.app"), set("apns-request-id", apnsID), set("apns-push-type", "liveactivity"),
		set("apns-channel-id", channel), body(`{"aps":{"timestamp":1,"event":"update","content-state":{}}}`),
		func(r *http.Request) {
			r.Header.Del("apns-topic")
			r.Header.Del("apns-id")
		})
}

// assertion returns the assertion of the service account with a change.
func assertion(t testing.TB, m *mockprovider.Mock, change func(header, claims object)) string {
	t.Helper()
	file, err := m.ServiceAccount()
	if err != nil {
		t.Fatal(err)
	}
	var account struct {
		Email    string `json:"client_email"`
		Key      string `json:"private_key"`
		KeyID    string `json:"private_key_id"`
		TokenURI string `json:"token_uri"`
	}
	if err := json.Unmarshal(file, &account); err != nil {
		t.Fatal(err)
	}
	header := object{"alg": "RS256", "typ": "JWT", "kid": account.KeyID}
	claims := object{
		"iss": account.Email, "scope": "https://www.googleapis.com/auth/firebase.messaging", "aud": account.TokenURI,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if change != nil {
		change(header, claims)
	}
	return jwttest.RS256(t, jwttest.PrivateKey[*rsa.PrivateKey](t, []byte(account.Key)), header, claims)
}

// exchange exchanges an assertion for an access token.
func exchange(t testing.TB, m *mockprovider.Mock, assertion string) response {
	t.Helper()
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	r := newRequest(t, "POST", m.TokenURL(), form.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return do(t, newClient(t, m), r)
}

// accessToken returns a new access token.
func accessToken(t testing.TB, m *mockprovider.Mock) string {
	t.Helper()
	got := exchange(t, m, assertion(t, m, nil))
	token, _ := got.object["access_token"].(string)
	if got.status != 200 || token == "" {
		t.Fatalf("the token endpoint responded %d %s", got.status, got.body)
	}
	return token
}

// message returns a request to FCM.
func message(t testing.TB, m *mockprovider.Mock, accessToken, body string) *http.Request {
	t.Helper()
	r := newRequest(t, "POST", m.FCMURL()+"/v1/projects/"+m.ProjectID()+"/messages:send", body)
	r.Header.Set("Authorization", "Bearer "+accessToken)
	r.Header.Set("Content-Type", "application/json; charset=UTF-8")
	return r
}

// to returns a message to a registration token.
func to(token string) string {
	return `{"message":{"token":"` + token + `","notification":{"title":"Hello","body":"World"}}}`
}

// fcmCode returns what a client extracts from an error response of FCM: the code of FcmError or else
// the reason of ErrorInfo or else the status.
func fcmCode(r response) (code string) {
	e, _ := r.object["error"].(object)
	code, _ = e["status"].(string)
	details, _ := e["details"].([]any)
	for _, d := range details {
		detail := d.(object)
		switch {
		case detail["errorCode"] != nil:
			code = detail["errorCode"].(string)
		case strings.HasSuffix(detail["@type"].(string), "ErrorInfo"):
			code = detail["reason"].(string)
		}
	}
	return code
}

// addrOf returns the address in a URL.
func addrOf(t testing.TB, link string) netip.AddrPort {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
