// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/sluice-push/sluice/internal/gateway"
)

// tokenServer returns a handler that acts as Google's security token service and as a metadata
// server. It issues access tokens that the mock's FCM accepts; it gets them with the mock's service
// account.
func (s mockEnv) tokenServer(t *testing.T) http.Handler {
	t.Helper()
	text, err := os.ReadFile(s.ready.ServiceAccountFile)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: s.mock.ClientTLS(), DisableKeepAlives: true}}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client)
	account, err := google.CredentialsFromJSONWithType(ctx, text, google.ServiceAccount, "https://www.googleapis.com/auth/firebase.messaging")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := account.TokenSource.Token(); err != nil { // the token source caches it
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/computeMetadata/v1/project/project-id" {
			_, _ = fmt.Fprint(w, s.ready.ProjectID)
			return
		}
		token, err := account.TokenSource.Token()
		if err != nil {
			t.Error(err)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token.AccessToken, "token_type": "Bearer", "expires_in": 3000})
	})
}

// TestFCMAccountKinds sends with each kind of Google account, and verifies with a check which one
// was used.
func TestFCMAccountKinds(t *testing.T) {
	s := newMockEnv(t)
	sts := httptest.NewTLSServer(s.tokenServer(t))
	defer sts.Close()
	metadata := httptest.NewServer(s.tokenServer(t))
	defer metadata.Close()
	roots := s.caFileWith(t, sts.Certificate())
	workload := s.workloadFile(t, sts.URL)
	block := fmt.Sprintf("fcm: {url: '%s', endpoints: ['%s'], ca_file: %q", s.ready.FCM, strings.Join(s.ready.FCMEndpoints, "', '"), roots)
	t.Setenv("HOME", t.TempDir())
	for name, c := range map[string]struct{ variable, block, want string }{
		"key in the environment": {s.ready.ServiceAccountFile, block + "}",
			"got a token for " + s.ready.ProjectID + " with GOOGLE_APPLICATION_CREDENTIALS, \"" + s.ready.ServiceAccountFile + `"`},
		"workload in the environment": {workload, block + ", project_id: " + s.ready.ProjectID + "}", " with GOOGLE_APPLICATION_CREDENTIALS, \"" + workload},
		"workload in a file":          {"", block + fmt.Sprintf(", project_id: %s, service_account_file: %q}", s.ready.ProjectID, workload), ` with "` + workload},
		"metadata server":             {"", block + "}", "got a token for " + s.ready.ProjectID + " with the machine's service account"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", c.variable)
			t.Setenv("GCE_METADATA_HOST", metadata.Listener.Addr().String())
			h := s.start(t, listenConfig+"apps:\n"+s.appBlock("shop", c.block))
			if status, receipt := h.post("shop", fcmNotification); status != 200 || receipt["status"] != "accepted" {
				t.Errorf("%d %v", status, receipt)
			}
			if found := runChecks(t, h.gw); !strings.Contains(found, c.want) {
				t.Errorf("want %q in:\n%s", c.want, found)
			}
		})
	}
}

// caFileWith writes a file with the mock's root certificates and cert.
func (s mockEnv) caFileWith(t *testing.T, cert *x509.Certificate) (file string) {
	t.Helper()
	text, err := os.ReadFile(s.ready.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "roots.pem")
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// subjectToken is the token of a workload from its own identity provider.
const subjectToken = "subject-of-the-workload-7c1f9a"

// workloadFile writes a workload identity file that refers to another file with the workload's own
// token.
func (s mockEnv) workloadFile(t *testing.T, sts string) (file string) {
	t.Helper()
	folder := t.TempDir()
	file, subject := filepath.Join(folder, "workload.json"), filepath.Join(folder, "subject")
	text := fmt.Sprintf(`{"type":"external_account","audience":"//iam.googleapis.com/x","subject_token_type":"urn:ietf:params:oauth:token-type:jwt",`+
		`"token_url":"%s/v1/token","credential_source":{"file":%q}}`, sts, subject)
	for at, text := range map[string]string{file: text, subject: subjectToken} {
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// runChecks runs the checks of a gateway and returns all results and errors.
func runChecks(t *testing.T, g *gateway.Gateway) string {
	t.Helper()
	var all strings.Builder
	for _, check := range g.Checks() {
		found, err := check.Verify(t.Context())
		_, _ = fmt.Fprintln(&all, check.Key, found, err)
	}
	return all.String()
}

func TestUnusableDefaultAccountIsRejectedAtStart(t *testing.T) {
	s := newMockEnv(t)
	block := fmt.Sprintf("fcm: {url: '%s', ca_file: %q}", s.ready.FCM, s.ready.CAFile)
	person := filepath.Join(t.TempDir(), "person.json")
	if err := os.WriteFile(person, []byte(`{"type":"authorized_user","refresh_token":"canary-secret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]string{
		"/nowhere/account.json": `config: apps.shop.fcm.service_account_file: not set, and Google's application default credentials cannot be used: fcm: account: GOOGLE_APPLICATION_CREDENTIALS, "/nowhere/account.json": cannot be read`,
		person:                  `config: apps.shop.fcm.service_account_file: GOOGLE_APPLICATION_CREDENTIALS, "` + person + `": fcm: account: type must be service_account, external_account`,
		s.workloadFile(t, "https://sts.example.com"): `project: must be the ID or number of a Firebase project`,
	} {
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", variable)
		_, err := gateway.New(parse(t, listenConfig+"apps:\n"+s.appBlock("shop", block)), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("want %q in:\n%v", want, err)
		}
	}
}
