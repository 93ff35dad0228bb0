// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"sync"
)

// Account is the only service account that the token endpoint accepts.
type Account struct {
	project, email, keyID string
	key                   *rsa.PrivateKey
}

// processKey returns the key of all accounts of the process. There is only one, because generating
// an RSA key is slow.
var processKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// NewAccount returns an account of the project.
func NewAccount(project string) (*Account, error) {
	key, err := processKey()
	return &Account{
		project: project, email: "sluice-mock@" + project + ".iam.gserviceaccount.com", keyID: strings.ToLower(rand.Text()), key: key,
	}, err
}

// KeyFile returns the JSON key file of the account, for a token endpoint at tokenURL.
func (a *Account) KeyFile(tokenURL string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": a.project, "private_key_id": a.keyID,
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": a.email, "client_id": "100000000000000000000",
		"token_uri": tokenURL, "auth_uri": "https://accounts.google.com/o/oauth2/auth", "universe_domain": "googleapis.com",
	}, "", "  ")
}
