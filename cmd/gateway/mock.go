// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/mockprovider"
)

type mockCmd struct {
	Config    string `short:"c" placeholder:"FILE" help:"Configuration of the mock in YAML. Without it, healthy services on free ports."`
	ReadyFile string `placeholder:"FILE" help:"Write all addresses to this file as JSON once the services listen."`
	Keys      string `placeholder:"DIR" help:"Write keys and certificates to this directory and keep them. The default is a temporary directory."`
}

// Help returns the description and examples.
func (mockCmd) Help() string {
	return `Example:

    gateway mock --ready-file mock.json

Runs mocks of APNs with channel management, FCM, Google's OAuth2 endpoint and three Web Push services on loopback addresses. Prints their addresses and key files as JSON. A file for -c can contain

    endpoints: 8            # each for APNs and FCM
    latency: typical        # none, lan, typical or far
    project_id: demo-project
    access_token_lifetime: 1h
    keep_content: true      # the ledger includes header fields, bodies and decrypted Web Push messages
    streams: {strict: true} # refuses streams that exceed a limit before the client can know it
    quotas: documented      # enforces Google's limits on FCM with 429
    seed: 1                 # makes random faults and latencies repeatable
    faults:                 # the first fault that matches a request applies
      - { service: apns, endpoint: "0", status: 503 }`
}

// Run runs the services until p is canceled.
func (m mockCmd) Run(p process) error {
	cfg, err := m.loadConfig()
	if err != nil {
		return usageError{err}
	}
	services, err := mockprovider.New(cfg)
	if err != nil {
		return usageError{err}
	}
	dir, remove, err := m.keysDir()
	if err != nil {
		return err
	}
	defer remove()
	files, err := services.WriteFiles(dir)
	if err != nil {
		return err
	}
	if err := announce(p, m.ReadyFile, services.Ready(files)); err != nil {
		return err
	}
	return services.Run(p)
}

func (m mockCmd) loadConfig() (mockprovider.Config, error) {
	if m.Config == "" {
		return mockprovider.Config{}, nil
	}
	text, err := os.ReadFile(m.Config)
	if err != nil {
		return mockprovider.Config{}, fmt.Errorf("mock: %w", err)
	}
	cfg, err := mockprovider.ParseConfig(text)
	if err != nil {
		return mockprovider.Config{}, fmt.Errorf("%s: %w", m.Config, err)
	}
	return cfg, nil
}

// keysDir returns the directory for keys and a function that removes it if it is temporary.
func (m mockCmd) keysDir() (dir string, remove func(), err error) {
	if m.Keys != "" {
		return m.Keys, func() {}, os.MkdirAll(m.Keys, 0o700)
	}
	dir, err = newTempDir("sluice-mock-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

// newTempDir creates a temporary directory and returns its absolute path. TMPDIR can be relative.
func newTempDir(prefix string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", prefix); err != nil {
		return "", err
	}
	return filepath.Abs(dir)
}

// announce prints the addresses and writes them to the ready file, if any.
func announce(p process, readyFile string, ready any) error {
	text, err := json.MarshalIndent(ready, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if _, err := p.stdout.Write(text); err != nil {
		return err
	}
	return writeReadyFile(readyFile, text)
}

// writeReadyFile writes the ready file, if there is one. It can contain a key.
func writeReadyFile(path string, text []byte) error {
	if path == "" {
		return nil
	}
	return atomicfile.Write(path, text)
}
