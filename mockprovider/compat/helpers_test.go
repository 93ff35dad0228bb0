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

// TestMain makes the whole process trust the mock as an operator would, by SSL_CERT_FILE: no client is told anything.
func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "compat-")
	if err != nil {
		log.Fatal(err)
	}
	mock, err := mockprovider.New(mockprovider.Config{Endpoints: 1}) // all mocks of a process share one authority
	if err != nil {
		log.Fatal(err)
	}
	ca := filepath.Join(folder, "ca.pem")
	if err := os.WriteFile(ca, mock.CACertPEM(), 0o600); err != nil {
		log.Fatal(err)
	}
	if err := os.Setenv("SSL_CERT_FILE", ca); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

func play(t *testing.T, m *mockprovider.Mock, faults ...mockprovider.Fault) {
	t.Helper()
	if err := m.SetScript(mockprovider.Script{Faults: faults}); err != nil {
		t.Fatal(err)
	}
}

// soon bounds a test that would hang.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
