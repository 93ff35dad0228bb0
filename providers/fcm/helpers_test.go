// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

const (
	deviceToken   = "cE3dZp4rQ0mUx7sYt1kLwA:APA91bH0XNq7vJrZ"
	tokenEndpoint = "https://oauth2.googleapis.com/token"
)

// fakeFCM is a connection that calls a function for every request.
type fakeFCM func(*wire.Request) (*wire.Response, error)

func (g fakeFCM) Do(_ context.Context, r *wire.Request) (*wire.Response, error) { return g(r) }

// acceptedBody is the body of an accepted message.
const acceptedBody = `{"name":"projects/demo-project/messages/0:1671819112768910%fbb99cf6fbb99cf6"}`

// accept responds that FCM accepted the message.
var accept = respond(200, acceptedBody)

func respond(status int, body string) fakeFCM {
	return func(*wire.Request) (*wire.Response, error) {
		return &wire.Response{Status: status, Body: []byte(body)}, nil
	}
}

func failWith(err error) fakeFCM {
	return func(*wire.Request) (*wire.Response, error) { return nil, err }
}

// fakeOAuth is the transport to a token endpoint. By default it returns a new access token for each
// request.
type fakeOAuth struct {
	mu      sync.Mutex
	times   []time.Time // of the requests
	forms   []string
	urls    []string
	status  int // zero means success
	body    string
	header  http.Header
	err     error
	life    int // expires_in in seconds; 0 means 3599, negative omits it
	latency time.Duration
}

func (o *fakeOAuth) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.times = append(o.times, time.Now())
	o.forms = append(o.forms, string(form))
	o.urls = append(o.urls, r.URL.String())
	latency, failure, response := o.latency, o.err, o.response()
	o.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if failure != nil {
		return nil, failure
	}
	response.Request = r
	return response, nil
}

// response creates the response. The caller holds mu.
func (o *fakeOAuth) response() *http.Response {
	status, body := o.status, o.body
	if status == 0 {
		life := o.life
		if life == 0 {
			life = 3599
		}
		status, body = 200, fmt.Sprintf(`{"access_token":%q,"expires_in":%d,"token_type":"Bearer"}`, accessToken(len(o.times)), life)
		if life < 0 {
			body = fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer"}`, accessToken(len(o.times)))
		}
	}
	header := o.header
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}
}

// accessToken returns the token of the n-th exchange, from 1.
func accessToken(n int) string { return fmt.Sprintf("ya29.SECRET-%d", n) }

// set changes the settings of o.
func (o *fakeOAuth) set(change func(*fakeOAuth)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

// requestTimes returns the times of the requests.
func (o *fakeOAuth) requestTimes() []time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.times)
}

func (o *fakeOAuth) exchanges() int { return len(o.requestTimes()) }

// testKey is the service account key of all tests.
var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func encodePKCS8(key any) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// keyFile returns a key file with some members changed; "" removes a member.
func keyFile(change ...string) []byte {
	file := map[string]string{
		"type": "service_account", "project_id": "demo-project", "private_key_id": "0123456789abcdef", "private_key": encodePKCS8(testKey()),
		"client_email": "sa@demo-project.iam.gserviceaccount.com", "token_uri": tokenEndpoint, "universe_domain": "googleapis.com",
	}
	for i := 0; i < len(change); i += 2 {
		file[change[i]] = change[i+1]
		if change[i+1] == "" {
			delete(file, change[i])
		}
	}
	text, err := json.Marshal(file)
	if err != nil {
		panic(err)
	}
	return text
}

// newProviderWith returns a provider that gets its access tokens from o.
func newProviderWith(t testing.TB, o *fakeOAuth) *fcm.Provider {
	t.Helper()
	p, err := fcm.New(fcm.Config{Account: keyFile(), TokenClient: &http.Client{Transport: o}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newProvider(t testing.TB) *fcm.Provider { return newProviderWith(t, &fakeOAuth{}) }

// newNotification returns a valid notification, modified by change.
func newNotification(change ...func(*push.Notification)) *push.Notification {
	n := &push.Notification{
		ID: "eabeae54-14a8-11e5-b60b-1697f925ec7b", AcceptedAt: time.Now(), Platform: push.FCM,
		Target: push.Target{Token: deviceToken}, Title: "Hello", Body: "World",
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func withTarget(target push.Target) func(*push.Notification) {
	return func(n *push.Notification) { n.Target = target }
}

func withMessage(message string) func(*push.Notification) {
	return func(n *push.Notification) { n.FCM = &push.FCMBlock{Message: []byte(message)} }
}

func translate(t testing.TB, p *fcm.Provider, n *push.Notification) *wire.Request {
	t.Helper()
	r, err := p.Translate(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// send makes one attempt.
func send(t testing.TB, p *fcm.Provider, conn fakeFCM, n *push.Notification) push.Outcome {
	t.Helper()
	return providertest.Send(t.Context(), p, conn, n, translate(t, p, n))
}

func authorizationOf(r *wire.Request) string {
	return (&wire.Response{Header: r.Header}).Get("authorization")
}

// runConcurrently calls do n times concurrently and waits for all calls.
func runConcurrently(t *testing.T, n int, do func()) {
	var all sync.WaitGroup
	for range n {
		all.Go(do)
	}
	testwait.Call(t, all.Wait, "the end of all calls")
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (- want, + got):\n%s", what, diff)
	}
}
