// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// TestMain makes the process trust the mock with SSL_CERT_FILE, so that the clients need no
// configuration for it.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "compat-")
	if err != nil {
		log.Fatal(err)
	}
	mock, err := mockprovider.New(mockprovider.Config{Endpoints: 1}) // all mocks of a process have the same authority
	if err != nil {
		log.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, mock.CACertPEM(), 0o600); err != nil {
		log.Fatal(err)
	}
	if err := os.Setenv("SSL_CERT_FILE", ca); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// setScript replaces the script.
func setScript(t *testing.T, m *mockprovider.Mock, faults ...mockprovider.Fault) {
	t.Helper()
	if err := m.SetScript(mockprovider.Script{Faults: faults}); err != nil {
		t.Fatal(err)
	}
}

// testContext returns a context that ends after a minute.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
