// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sluice-push/sluice/mockprovider"
)

type mockCmd struct {
	Config    string `short:"c" placeholder:"FILE" help:"What to play, in YAML; without it, honest services on free ports."`
	ReadyFile string `placeholder:"FILE" help:"Write where everything listens to this file, in JSON, once it does."`
	Keys      string `placeholder:"FOLDER" help:"Write keys and certificates to this folder and leave them there; default a temporary one."`
}

// Help shows an example.
func (mockCmd) Help() string {
	return `Example:

    gateway mock --ready-file mock.json

Plays APNs with channel management, FCM, Google's OAuth2 endpoint and three Web Push services on loopback, and prints where they listen and where their keys are, in JSON. A file for -c may hold

    endpoints: 8            # of APNs and of FCM
    latency: typical        # none, lan, typical or far
    project_id: demo-project
    access_token_lifetime: 1h
    keep_content: true      # the ledger shows header fields, bodies and what Web Push messages said
    quotas: documented      # Google's limits on FCM, answered 429
    seed: 1                 # makes shares and latencies repeatable
    faults:                 # what goes wrong: the first that applies wins
      - { service: apns, endpoint: "0", status: 503 }`
}

// Run plays the services until a signal comes.
func (m mockCmd) Run(p process) error {
	cfg, err := m.loadConfig()
	if err != nil {
		return usageError{err}
	}
	services, err := mockprovider.New(cfg)
	if err != nil {
		return usageError{err}
	}
	folder, remove, err := m.keysDir()
	if err != nil {
		return err
	}
	defer remove()
	files, err := services.WriteFiles(folder)
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

// keysDir returns where the keys go, and what to do at the end.
func (m mockCmd) keysDir() (folder string, remove func(), err error) {
	if m.Keys != "" {
		return m.Keys, func() {}, os.MkdirAll(m.Keys, 0o700)
	}
	folder, err = os.MkdirTemp("", "sluice-mock-")
	return folder, func() { _ = os.RemoveAll(folder) }, err
}

// announce prints where everything listens, and writes it to the ready file if one was asked for.
func announce(p process, readyFile string, ready any) error {
	text, err := json.MarshalIndent(ready, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if _, err := p.stdout.Write(text); err != nil {
		return err
	}
	return writeAtomically(readyFile, text)
}

// writeAtomically writes a file so that whoever waits for it finds all of it or none. It can hold a key: only its owner may
// read it.
func writeAtomically(path string, text []byte) error {
	if path == "" {
		return nil
	}
	half, err := os.CreateTemp(filepath.Dir(path), ".ready-")
	if err != nil {
		return err
	}
	_, err = half.Write(text)
	if closing := half.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(half.Name(), path)
	}
	if err != nil {
		_ = os.Remove(half.Name())
	}
	return err
}
