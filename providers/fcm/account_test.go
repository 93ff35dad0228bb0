// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
)

// fakeCloud is an HTTP server with all services that an exchange needs: an identity provider,
// Google's security token service, IAM, and a metadata server.
type fakeCloud struct {
	server  *httptest.Server
	handler http.HandlerFunc // replaces the default responses; can be nil

	mu         sync.Mutex
	requestLog []string // path, authorization, body
}

func newCloud(t testing.TB, start func(http.Handler) *httptest.Server) *fakeCloud {
	t.Helper()
	c := &fakeCloud{}
	c.server = start(c)
	t.Cleanup(c.server.Close)
	return c
}

// ServeHTTP responds as the endpoint of the path.
func (c *fakeCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.requestLog = append(c.requestLog, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(body)))
	c.mu.Unlock()
	if c.handler != nil {
		c.handler(w, r)
		return
	}
	c.respond(w, r)
}

func (c *fakeCloud) respond(w http.ResponseWriter, r *http.Request) {
	n := len(c.requests())
	switch {
	case r.URL.Path == "/subject":
		_, _ = io.WriteString(w, `{"id_token":"SECRET-subject"}`)
	case r.URL.Path == "/sts":
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}`, accessToken(n))
	case r.URL.Path == "/iam":
		_, _ = fmt.Fprintf(w, `{"accessToken":%q,"expireTime":%q}`, accessToken(n), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	case r.Header.Get("Metadata-Flavor") != "Google":
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path == "/computeMetadata/v1/project/project-id":
		_, _ = io.WriteString(w, "machine-project")
	case r.URL.Query().Get("scopes") == "https://www.googleapis.com/auth/firebase.messaging":
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":3599,"token_type":"Bearer"}`, accessToken(n))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *fakeCloud) requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.requestLog...)
}

// workloadFile returns an external account file with some members changed; nil removes a member.
func (c *fakeCloud) workloadFile(change map[string]any) []byte {
	file := map[string]any{
		"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": c.server.URL + "/sts",
		"credential_source": map[string]any{
			"url": c.server.URL + "/subject", "format": map[string]string{"type": "json", "subject_token_field_name": "id_token"},
		},
	}
	for name, value := range change {
		file[name] = value
		if value == nil {
			delete(file, name)
		}
	}
	text, err := json.Marshal(file)
	if err != nil {
		panic(err)
	}
	return text
}

// newProvider returns a provider for the credential file text; nil means the metadata server.
func (c *fakeCloud) newProvider(t *testing.T, text []byte, log io.Writer) *fcm.Provider {
	t.Helper()
	t.Setenv("GCE_METADATA_HOST", c.server.Listener.Addr().String())
	client := c.server.Client()
	if text == nil {
		client = &http.Client{Transport: plainToTLS{client.Transport}}
	}
	p, err := fcm.New(fcm.Config{
		Account: text, MetadataServer: text == nil, Project: "demo-project", TokenClient: client,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func requestPaths(requests []string) (all []string) {
	for _, r := range requests {
		path, _, _ := strings.Cut(r, " ")
		all = append(all, path)
	}
	return all
}

func TestExternalAccountExchange(t *testing.T) {
	c := newCloud(t, httptest.NewTLSServer)
	p := c.newProvider(t, c.workloadFile(nil), io.Discard)
	runConcurrently(t, 20, func() { equal(t, "token", mustAccept(t, p), accessToken(2)) })
	requests := c.requests()
	equal(t, "one exchange", requestPaths(requests), []string{"/subject", "/sts"})
	for _, part := range []string{"subject_token=SECRET-subject", "auth%2Ffirebase.messaging", "grant-type%3Atoken-exchange"} {
		equal(t, part, strings.Contains(requests[1], part), true)
	}
}

func TestExternalAccountImpersonation(t *testing.T) {
	c := newCloud(t, httptest.NewTLSServer)
	subject := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(subject, []byte("SECRET-of-the-file"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := c.newProvider(t, c.workloadFile(map[string]any{
		"service_account_impersonation_url": c.server.URL + "/iam", "credential_source": map[string]any{"file": subject},
	}), io.Discard)
	equal(t, "token", mustAccept(t, p), accessToken(2))
	requests := c.requests()
	equal(t, "exchange", requestPaths(requests), []string{"/sts", "/iam"})
	equal(t, "subject token", strings.Contains(requests[0], "subject_token=SECRET-of-the-file"), true)
	equal(t, "authorized by the first token", strings.Contains(requests[1], "Bearer "+accessToken(1)+" "), true)
	equal(t, "scope", strings.Contains(requests[1], `"scope":["https://www.googleapis.com/auth/firebase.messaging"]`), true)
}

func TestServiceAccountImpersonation(t *testing.T) {
	c := newCloud(t, httptest.NewTLSServer)
	p := c.newProvider(t, c.impersonationFile(), io.Discard)
	c.handler = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sts" {
			_, _ = io.WriteString(w, `{"access_token":"first","expires_in":3599,"token_type":"Bearer"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"accessToken":%q,"expireTime":"2099-01-01T00:00:00Z"}`, accessToken(2))
	}
	equal(t, "token", mustAccept(t, p), accessToken(2))
	equal(t, "exchange", requestPaths(c.requests()), []string{"/sts", "/iam"})
}

func (c *fakeCloud) impersonationFile() []byte {
	return []byte(fmt.Sprintf(`{"type":"impersonated_service_account","service_account_impersonation_url":"%s/iam","source_credentials":%s}`,
		c.server.URL, keyFile("token_uri", c.server.URL+"/sts")))
}

func TestMetadataServerAccount(t *testing.T) {
	c := newCloud(t, httptest.NewServer)
	t.Setenv("GCE_METADATA_HOST", c.server.Listener.Addr().String())
	p, err := fcm.New(fcm.Config{MetadataServer: true, Project: "demo-project"})
	if err != nil {
		t.Fatal(err)
	}
	runConcurrently(t, 20, func() { equal(t, "token", mustAccept(t, p), accessToken(1)) })
	equal(t, "one exchange", requestPaths(c.requests()), []string{"/computeMetadata/v1/instance/service-accounts/default/token"})
}

func TestFailedExchangesHoldNoSecret(t *testing.T) {
	leak := `{"error":"%s","error_description":"LEAK"}`
	for name, c := range map[string]struct {
		status  int
		body    string
		verdict push.Verdict
		reason  string
	}{
		"refused":       {400, fmt.Sprintf(leak, "invalid_grant"), push.Unauthorized, "invalid_grant"},
		"unknown error": {403, `{"error":{"status":"PERMISSION_DENIED","message":"LEAK"}}`, push.Unauthorized, "OAUTH_REFUSED"},
		"throttled":     {429, "LEAK", push.Throttled, "OAUTH_THROTTLED"},
		"unavailable":   {503, "LEAK", push.Unavailable, "OAUTH_UNAVAILABLE"},
		"redirect":      {307, "LEAK", push.Unavailable, "OAUTH_INTERMEDIARY_RESPONSE"},
		"not JSON":      {200, "LEAK", push.Unavailable, "OAUTH_INTERMEDIARY_RESPONSE"},
		"no token":      {200, `{"LEAK":1,"expires_in":3600}`, push.Unavailable, "OAUTH_INVALID_TOKEN"},
		"aborted":       {0, "", push.Unavailable, "OAUTH_UNAVAILABLE"},
		"proxy":         {407, leak, push.Unavailable, "OAUTH_INTERMEDIARY_RESPONSE"},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, text := range accountKinds {
				cloud := newCloud(t, httptest.NewTLSServer)
				cloud.handler = func(w http.ResponseWriter, r *http.Request) {
					if c.status == 0 {
						panic(http.ErrAbortHandler)
					}
					w.Header().Set("Location", cloud.server.URL+"/elsewhere")
					w.Header().Set("Retry-After", "40")
					w.WriteHeader(c.status)
					_, _ = io.WriteString(w, c.body)
				}
				cloud.checkFailure(t, kind, text(cloud), c.verdict, c.reason)
			}
		})
	}
}

// TestIntermediaryInEveryExchange answers one request of an exchange after the other with the page of
// an intermediary.
func TestIntermediaryInEveryExchange(t *testing.T) {
	for _, status := range []int{200, 301, 302, 307, 400, 401, 403, 404, 407, 410, 413, 418, 451, 502, 503} {
		for kind, text := range accountKinds {
			for failing := range map[string]int{"a workload": 2, "impersonated": 2}[kind] + 1 {
				t.Run(fmt.Sprintf("%d in request %d of %s", status, failing+1, kind), func(t *testing.T) {
					cloud := newCloud(t, httptest.NewTLSServer)
					cloud.handler = func(w http.ResponseWriter, r *http.Request) {
						if len(cloud.requests()) <= failing {
							cloud.respond(w, r)
							return
						}
						w.Header().Set("Content-Type", "text/html")
						w.Header().Set("Location", cloud.server.URL+"/elsewhere")
						w.WriteHeader(status)
						_, _ = io.WriteString(w, "<html>LEAK")
					}
					p := cloud.newProvider(t, text(cloud), io.Discard)
					if o := send(t, p, accept, newNotification()); o.Verdict != push.Accepted && (o.Verdict != push.Unavailable || o.Reason != "OAUTH_INTERMEDIARY_RESPONSE") {
						t.Errorf("%+v", o)
					}
				})
			}
		}
	}
}

func TestMetadataServerRefusal(t *testing.T) {
	c := newCloud(t, httptest.NewServer)
	c.handler = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		http.Error(w, "the machine has no service account", http.StatusNotFound)
	}
	t.Setenv("GCE_METADATA_HOST", c.server.Listener.Addr().String())
	p, err := fcm.New(fcm.Config{MetadataServer: true, Project: "demo-project"})
	if err != nil {
		t.Fatal(err)
	}
	o := mustNotSend(t, p)
	equal(t, "outcome", fmt.Sprint(o.Verdict, " ", o.Reason), "unauthorized OAUTH_REFUSED")
}

// accountKinds returns a credential file of each kind; nil means the metadata server.
var accountKinds = map[string]func(*fakeCloud) []byte{
	"a workload":   func(c *fakeCloud) []byte { return c.workloadFile(nil) },
	"a key":        func(c *fakeCloud) []byte { return keyFile("token_uri", c.server.URL+"/sts") },
	"impersonated": (*fakeCloud).impersonationFile,
	"a machine":    func(*fakeCloud) []byte { return nil },
}

func (c *fakeCloud) checkFailure(t *testing.T, kind string, text []byte, verdict push.Verdict, reason string) {
	t.Helper()
	var log bytes.Buffer
	p := c.newProvider(t, text, &log)
	began := time.Now()
	o := mustNotSend(t, p)
	equal(t, kind, fmt.Sprint(o.Verdict, " ", o.Reason, " ", o.Scope), fmt.Sprint(verdict, " ", reason, " credential"))
	if verdict == push.Throttled {
		equal(t, kind+" waits", o.RetryAfter > 30*time.Second && o.RetryAfter <= 40*time.Second, true)
	}
	requests := len(c.requests())
	output := log.String() + fmt.Sprint(p.Authorize(t.Context()), o)
	if time.Since(began) < 800*time.Millisecond { // later, a retry is allowed
		equal(t, kind+" is not retried immediately", len(c.requests()), requests)
		equal(t, kind+" is logged", strings.Count(log.String(), "cannot get an access token"), 1)
	}
	equal(t, kind+" follows the redirect", strings.Contains(fmt.Sprint(requestPaths(c.requests())), "elsewhere"), false)
	for _, secret := range []string{"LEAK", "SECRET", "PRIVATE", "assertion"} {
		equal(t, kind+" contains "+secret, strings.Contains(output, secret), false)
	}
}

// plainToTLS sends http requests, such as those to the metadata server, over TLS.
type plainToTLS struct{ next http.RoundTripper }

func (p plainToTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Scheme = "https"
	return p.next.RoundTrip(r)
}

func TestUnreadableSubjectTokenHoldsNoSecret(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"SECRET-empty", "SECRET-text"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.TrimPrefix(name, "SECRET-empty")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for detail, source := range map[string]map[string]any{
		"credential_source.file in the credential file names a file that does not exist": {"file": filepath.Join(dir, "SECRET-missing")},
		"names a file that cannot be read":                                               {"file": dir},
		"names an empty file":                                                            {"file": filepath.Join(dir, "SECRET-empty")},
		"the subject token cannot be obtained as credential_source in the credential file says": {
			"file": filepath.Join(dir, "SECRET-text"), "format": map[string]string{"type": "json", "subject_token_field_name": "id_token"}},
	} {
		t.Run(detail, func(t *testing.T) {
			c := newCloud(t, httptest.NewTLSServer)
			var log bytes.Buffer
			p := c.newProvider(t, c.workloadFile(map[string]any{"credential_source": source}), &log)
			o := mustNotSend(t, p)
			equal(t, "reason", o.Reason, "OAUTH_NO_SUBJECT_TOKEN")
			equal(t, "retryable", o.Retryable(), true)
			for _, text := range []string{o.Detail, log.String(), fmt.Sprint(p.Authorize(t.Context()))} {
				equal(t, text, strings.Contains(text, detail) && !strings.Contains(text, "SECRET") && !strings.Contains(text, dir), true)
			}
			equal(t, "requests", len(c.requests()), 0)
		})
	}
}

func TestEndOfRunAbortsExchange(t *testing.T) {
	for kind, text := range accountKinds {
		t.Run(kind, func(t *testing.T) {
			c := newCloud(t, httptest.NewTLSServer)
			arrived := make(chan struct{}, 1)
			c.handler = func(_ http.ResponseWriter, r *http.Request) {
				arrived <- struct{}{}
				<-r.Context().Done()
			}
			p := c.newProvider(t, text(c), io.Discard)
			running, stop := context.WithCancel(t.Context())
			runEnded := make(chan error, 1)
			go func() { runEnded <- p.Run(running) }()
			testwait.For(t, arrived, "the request")
			ctx, cancel := context.WithCancel(t.Context())
			r := translate(t, p, newNotification())
			ended := make(chan push.Outcome, 1)
			go func() { ended <- providertest.Send(ctx, p, accept, newNotification(), r) }()
			cancel()
			equal(t, "outcome", testwait.For(t, ended, "the end of the send"), push.Outcome{Verdict: push.Abandoned, Reason: "LOCAL_CANCELLED"})
			stop()
			equal(t, "Run", testwait.For(t, runEnded, "the end of Run"), error(nil))
		})
	}
}

func TestInvalidExternalAccountErrorsHoldNoSecret(t *testing.T) {
	c := newCloud(t, httptest.NewTLSServer)
	for name, change := range map[string]map[string]any{
		"not a complete external_account file":        {"audience": nil},
		"not a complete external_account":             {"subject_token_type": nil},
		"token_url must be an https":                  {"token_url": "http://SECRET.example.com"},
		"service_account_impersonation_url must be":   {"service_account_impersonation_url": "ftp://SECRET"},
		"not a complete":                              {"installed": map[string]any{"client_id": "SECRET", "redirect_uris": []string{"x"}}},
		"not a complete external":                     {"credential_source": "SECRET"},
		"type must be service_account, external_acco": {"type": "authorized_user"},
		"not a complete impersonated_service_account": {"type": "impersonated_service_account"},
	} {
		_, err := fcm.New(fcm.Config{Account: c.workloadFile(change), Project: "demo-project"})
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v, want an error with %q", err, name)
		}
	}
	for want, cfg := range map[string]fcm.Config{
		"project: must be":          {Account: c.workloadFile(nil)},
		"token URL: must be":        {Account: c.workloadFile(nil), Project: "demo-project", TokenURL: "https://example.com/token"},
		"token URL: must be an":     {Account: keyFile(), TokenURL: "http://example.com/token"},
		"neither a credential file": {Account: keyFile(), MetadataServer: true},
		"project: must":             {MetadataServer: true},
	} {
		if _, err := fcm.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

func TestDefaultCredentialsOrder(t *testing.T) {
	c := newCloud(t, httptest.NewServer)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("GCE_METADATA_HOST", c.server.Listener.Addr().String())
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	checkDefault(t, fcm.Config{MetadataServer: true, Project: "machine-project"}, "the machine's service account")

	gcloud := filepath.Join(home, ".config", "gcloud")
	if err := os.MkdirAll(gcloud, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(gcloud, "application_default_credentials.json"), keyFile("project_id", "of-gcloud"))
	checkDefault(t, fcm.Config{Account: keyFile("project_id", "of-gcloud")}, "gcloud's application default credentials")

	named := filepath.Join(home, "named.json")
	writeFile(t, named, keyFile())
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", named)
	checkDefault(t, fcm.Config{Account: keyFile()}, fmt.Sprintf("GOOGLE_APPLICATION_CREDENTIALS, %q", named))

	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(home, "nowhere.json"))
	_, _, err := fcm.DefaultCredentials(t.Context())
	equal(t, "error", strings.HasSuffix(fmt.Sprint(err), `nowhere.json": cannot be read: no such file or directory`), true)
}

func writeFile(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func checkDefault(t *testing.T, want fcm.Config, at string) {
	t.Helper()
	cfg, where, err := fcm.DefaultCredentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "found", []any{string(cfg.Account), cfg.MetadataServer, cfg.Project, where}, []any{string(want.Account), want.MetadataServer, want.Project, at})
}

func TestDefaultCredentialsErrorHoldsNoSecret(t *testing.T) {
	home := t.TempDir()
	gcloud := filepath.Join(home, ".config", "gcloud")
	if err := os.MkdirAll(gcloud, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(gcloud, "application_default_credentials.json"), []byte("SECRET"))
	t.Setenv("HOME", home)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	_, _, err := fcm.DefaultCredentials(t.Context())
	text := fmt.Sprint(err)
	equal(t, text, strings.Contains(text, "none found: no GOOGLE_APPLICATION_CREDENTIALS") && !strings.Contains(text, "SECRET"), true)
}
