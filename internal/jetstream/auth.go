// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Auth names the files with which a client identifies itself to an external server and verifies it.
// All are optional. They are read at each connect, so a renewed file is used from the next one on.
type Auth struct {
	CredentialsFile   string // JWT and seed of a user
	NKeyFile          string // seed of a user
	CAFile            string // root certificates in PEM
	CertFile, KeyFile string // client certificate in PEM, and its key
}

// Check reads the files. Its error starts with the configuration key of the invalid one, and contains
// nothing of their contents.
func (a *Auth) Check() error {
	_, err := a.options()
	return err
}

// options returns the options of a connection.
func (a *Auth) options() (options []nats.Option, err error) {
	if a.CredentialsFile != "" {
		if err := checkCredentials(a.CredentialsFile); err != nil {
			return nil, fmt.Errorf("credentials_file: %w", err)
		}
		options = append(options, nats.UserCredentials(a.CredentialsFile))
	}
	if a.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(a.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("nkey_file: %q is not the seed of a user: %w", a.NKeyFile, err)
		}
		options = append(options, nkey)
	}
	if a.CAFile != "" {
		text, err := os.ReadFile(a.CAFile)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(text) {
			err = fmt.Errorf("%q contains no valid certificate", a.CAFile)
		}
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		options = append(options, nats.RootCAs(a.CAFile))
	}
	if a.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile); err != nil {
			return nil, fmt.Errorf("cert_file: %q and key_file are not a certificate and its key: %w", a.CertFile, err)
		}
		options = append(options, nats.ClientCert(a.CertFile, a.KeyFile))
	}
	return options, nil
}

func checkCredentials(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, err = nkeys.ParseDecoratedJWT(text)
	if err == nil {
		_, err = nkeys.ParseDecoratedUserNKey(text)
	}
	if err != nil { // its text is not needed
		return errors.New("must contain the JWT and the seed of a user, as nsc generates it")
	}
	return nil
}
