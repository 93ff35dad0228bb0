// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/jwt"

	"github.com/sluice-push/sluice/internal/keyfile"
)

const (
	// scope limits an access token to sending messages.
	scope = "https://www.googleapis.com/auth/firebase.messaging"
	// tokenURI is Google's token endpoint, for key files that do not set one.
	tokenURI = "https://oauth2.googleapis.com/token"
)

// account holds the members of a credential file that this package uses.
type account struct {
	Type      google.CredentialsType `json:"type"`
	ProjectID string                 `json:"project_id"`

	// Members of a service account key.
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	ClientEmail  string `json:"client_email"`
	TokenURI     string `json:"token_uri"`

	// Members of external and impersonated accounts that are checked before use.
	TokenURL         string         `json:"token_url"`
	ImpersonationURL string         `json:"service_account_impersonation_url"`
	CredentialSource jsontext.Value `json:"credential_source"`
	Web              jsontext.Value `json:"web"`
	Installed        jsontext.Value `json:"installed"`

	text []byte // the file; nil for a service account key, which needs only its members
}

// parseAccount parses a credential file. An error says what is wrong with the file and contains no
// part of it.
func parseAccount(content []byte) (*account, error) {
	text := keyfile.Text(content)
	var a account
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, errors.New("fcm: account: not the JSON of a service account's key file" + describeFile(text) + " (to create one: " + createKey + ")")
	}
	switch a.Type {
	case google.ServiceAccount:
		return &a, a.checkKeyFile()
	case google.ExternalAccount, google.ImpersonatedServiceAccount:
		a.text = text
		return &a, a.checkFederation()
	}
	if found := describeJSON(text); found != "" {
		return nil, errors.New("fcm: account: " + found + " (to create a service account's key file: " + createKey + ")")
	}
	return nil, errors.New("fcm: account: type must be service_account, external_account or impersonated_service_account " +
		"(a user credential does not work: FCM requires a service account)")
}

const createKey = "Firebase console, Project settings, Service accounts, Generate new private key"

// describeFile returns what a file is that is not the JSON of an account.
func describeFile(text []byte) string {
	switch found := keyfile.Describe(text); found {
	case "", "JSON":
		return ""
	default:
		return ", but " + found
	}
}

// describeJSON returns what a JSON file without an account's type is, or "".
func describeJSON(text []byte) string {
	var members map[string]jsontext.Value
	if json.Unmarshal(text, &members) != nil {
		return ""
	}
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return members[name] == nil })
	}
	switch {
	case has("project_info", "client"):
		return "a google-services.json, the configuration of an Android app, which has no secret"
	case has("apiKey"), has("messagingSenderId"):
		return "the configuration of a web app (firebaseConfig), which has no secret"
	case has("web"), has("installed"):
		return "an OAuth client, which needs a user"
	case has("private_key") && !has("type"):
		return "type is missing: it must be service_account"
	}
	return ""
}

func (a *account) checkKeyFile() error {
	if a.ClientEmail == "" {
		return errors.New("fcm: account: client_email is missing")
	}
	a.TokenURI = cmp.Or(a.TokenURI, tokenURI)
	if !isHTTPS(a.TokenURI) {
		return errors.New("fcm: account: token_uri must be an https URL, such as " + tokenURI)
	}
	return a.checkKey()
}

func (a *account) checkKey() error {
	if a.PrivateKey == "" {
		return errors.New("fcm: account: private_key is missing")
	}
	block, err := keyfile.Key([]byte(a.PrivateKey), "PRIVATE KEY", "RSA PRIVATE KEY")
	if err != nil {
		what := "is not PEM (its newlines must be \\n in the JSON)"
		if found := keyfile.Describe([]byte(a.PrivateKey)); found != "" {
			what = "must be an RSA key in PEM, but is " + found
		}
		return errors.New("fcm: account: private_key " + what)
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if _, ok := key.(*rsa.PrivateKey); !ok {
			return errors.New("fcm: account: private_key must be an RSA key, is " + keyfile.DescribeKey(key))
		}
		return nil
	}
	if _, err := x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
		return errors.New("fcm: account: private_key is not a PKCS #8 or PKCS #1 key (is it truncated?)")
	}
	return nil
}

// checkFederation checks a file whose exchange the oauth2 package makes. The file's author chooses
// the URLs. Credentials are sent to them, so they must be https.
func (a *account) checkFederation() error {
	for name, link := range map[string]string{"token_url": a.TokenURL, "service_account_impersonation_url": a.ImpersonationURL} {
		if link != "" && !isHTTPS(link) {
			return errors.New("fcm: account: " + name + " must be an https URL")
		}
	}
	_, err := google.CredentialsFromJSONWithType(context.Background(), a.text, a.Type, scope)
	if err != nil || a.Web != nil || a.Installed != nil { // web and installed belong to OAuth clients, which need a user
		return errors.New("fcm: account: not a complete " + string(a.Type) + " file (to create one: gcloud " +
			"iam workload-identity-pools create-cred-config, or gcloud auth application-default login --impersonate-service-account)")
	}
	return nil
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

// fetchToken makes the exchange for the account's type: that of RFC 7523, a signed assertion for an
// access token, or those of RFC 8693 and IAM, which exchange an external token. ctx carries the
// HTTP client.
func (a *account) fetchToken(ctx context.Context) (*oauth2.Token, error) {
	if a.Type == google.ServiceAccount {
		config := jwt.Config{
			Email: a.ClientEmail, PrivateKey: []byte(a.PrivateKey), PrivateKeyID: a.PrivateKeyID,
			Scopes: []string{scope}, TokenURL: a.TokenURI,
		}
		return config.TokenSource(ctx).Token()
	}
	credentials, err := google.CredentialsFromJSONWithType(ctx, a.text, a.Type, scope)
	if err != nil {
		return nil, err
	}
	if err := a.checkSubjectFile(); err != nil {
		return nil, err
	}
	return credentials.TokenSource.Token()
}

// checkSubjectFile checks that the file that credential_source names, if any, has a subject token.
// The error contains nothing of the credential file.
func (a *account) checkSubjectFile() error {
	var source struct {
		File string `json:"file"`
	}
	if json.Unmarshal(a.CredentialSource, &source, lenient) != nil || source.File == "" {
		return nil
	}
	switch text, err := os.ReadFile(source.File); {
	case errors.Is(err, fs.ErrNotExist):
		return &subjectError{"credential_source.file in the credential file names a file that does not exist"}
	case errors.Is(err, fs.ErrPermission):
		return &subjectError{"credential_source.file in the credential file names a file that the gateway's user has no permission to read"}
	case err != nil:
		return &subjectError{"credential_source.file in the credential file names a file that cannot be read"}
	case len(bytes.TrimSpace(text)) == 0:
		return &subjectError{"credential_source.file in the credential file names an empty file"}
	}
	return nil
}
