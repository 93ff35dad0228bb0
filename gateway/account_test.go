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

	"github.com/sluice-push/sluice/gateway"
)

// broker hands out access tokens that the mock's FCM takes, in the words of Google's security token service and of a
// metadata server. It gets them as the mock's service account.
func (s street) broker(t *testing.T) http.Handler {
	t.Helper()
	text, err := os.ReadFile(s.at.ServiceAccountFile)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: s.mock.ClientTLS(), DisableKeepAlives: true}}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, client)
	account, err := google.CredentialsFromJSONWithType(ctx, text, google.ServiceAccount, "https://www.googleapis.com/auth/firebase.messaging")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := account.TokenSource.Token(); err != nil { // which is then kept
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/computeMetadata/v1/project/project-id" {
			_, _ = fmt.Fprint(w, s.at.ProjectID)
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

// TestFCMIsReachedWithEveryKindOfGoogleAccount sends as each, and reads in a check who that was.
func TestFCMIsReachedWithEveryKindOfGoogleAccount(t *testing.T) {
	s := newStreet(t)
	sts := httptest.NewTLSServer(s.broker(t))
	defer sts.Close()
	metadata := httptest.NewServer(s.broker(t))
	defer metadata.Close()
	roots := s.rootsWith(t, sts.Certificate())
	workload := s.workload(t, sts.URL)
	block := fmt.Sprintf("fcm: {url: '%s', endpoints: ['%s'], ca_file: %q", s.at.FCM, strings.Join(s.at.FCMEndpoints, "', '"), roots)
	t.Setenv("HOME", t.TempDir())
	for name, c := range map[string]struct{ variable, block, want string }{
		"a key of the environment": {s.at.ServiceAccountFile, block + "}",
			"got a token for " + s.at.ProjectID + ", by GOOGLE_APPLICATION_CREDENTIALS, \"" + s.at.ServiceAccountFile + `"`},
		"a workload of the environment": {workload, block + ", project_id: " + s.at.ProjectID + "}", "by GOOGLE_APPLICATION_CREDENTIALS, \"" + workload},
		"a workload's file":             {"", block + fmt.Sprintf(", project_id: %s, service_account_file: %q}", s.at.ProjectID, workload), `, by "` + workload},
		"the machine":                   {"", block + "}", "got a token for " + s.at.ProjectID + ", by the machine's service account"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", c.variable)
			t.Setenv("GCE_METADATA_HOST", metadata.Listener.Addr().String())
			h := s.open(t, head+"apps:\n"+s.app("shop", c.block))
			if status, receipt := h.post("shop", fcmTo); status != 200 || receipt["status"] != "accepted" {
				t.Errorf("%d %v", status, receipt)
			}
			if found := checked(t, h.gate); !strings.Contains(found, c.want) {
				t.Errorf("want %q in:\n%s", c.want, found)
			}
		})
	}
}

// rootsWith writes a file of the mock's roots and one more.
func (s street) rootsWith(t *testing.T, one *x509.Certificate) (file string) {
	t.Helper()
	text, err := os.ReadFile(s.at.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "roots.pem")
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Raw})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// subjectToken is what a workload has from its own identity provider.
const subjectToken = "subject-of-the-workload-7c1f9a"

// workload writes the file of a workload outside of Google Cloud, whose own token is in another file.
func (s street) workload(t *testing.T, sts string) (file string) {
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

// checked is what the checks of a gateway found, failures too.
func checked(t *testing.T, g *gateway.Gateway) string {
	t.Helper()
	var all strings.Builder
	for _, check := range g.Checks() {
		found, err := check.Verify(t.Context())
		_, _ = fmt.Fprintln(&all, check.Key, found, err)
	}
	return all.String()
}

func TestADefaultThatDoesNotServeIsRefusedAtTheStart(t *testing.T) {
	s := newStreet(t)
	block := fmt.Sprintf("fcm: {url: '%s', ca_file: %q}", s.at.FCM, s.at.CAFile)
	person := filepath.Join(t.TempDir(), "person.json")
	if err := os.WriteFile(person, []byte(`{"type":"authorized_user","refresh_token":"canary-secret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for variable, want := range map[string]string{
		"/nowhere/account.json":                  `config: apps.shop.fcm.service_account_file: not given, and Google's default does not serve: fcm: account: GOOGLE_APPLICATION_CREDENTIALS, "/nowhere/account.json": cannot be read`,
		person:                                   `config: apps.shop.fcm.service_account_file: GOOGLE_APPLICATION_CREDENTIALS, "` + person + `": fcm: account: type must be service_account, external_account`,
		s.workload(t, "https://sts.example.com"): `project: must be a Firebase project's ID or number`,
	} {
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", variable)
		_, err := gateway.New(parse(t, head+"apps:\n"+s.app("shop", block)), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("want %q in:\n%v", want, err)
		}
	}
}
