// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/mockprovider"
)

type mock struct {
	Config    string `short:"c" placeholder:"FILE" help:"What to play, in YAML; without it, honest services on free ports."`
	ReadyFile string `placeholder:"FILE" help:"Write where everything listens to this file, in JSON, once it does."`
	Keys      string `placeholder:"FOLDER" help:"Write keys and certificates to this folder and leave them there; default a temporary one."`
}

// Help shows an example.
func (mock) Help() string {
	return `Example:

    gateway mock --ready-file mock.json

Plays APNs, FCM, Google's OAuth2 endpoint and a Web Push service on loopback, and prints where they listen and where their keys are, in JSON. A file for -c may hold

    endpoints: 8            # of APNs and of FCM
    latency: typical        # none, lan, typical or far
    project_id: demo-project
    access_token_lifetime: 1h
    seed: 1                 # makes shares and latencies repeatable
    faults:                 # what goes wrong: the first that applies wins
      - { service: apns, endpoint: "0", status: 503 }`
}

// script is the file of mock -c.
type script struct {
	Listen              string               `yaml:"listen"`
	Endpoints           int                  `yaml:"endpoints"`
	Latency             string               `yaml:"latency"`
	ProjectID           string               `yaml:"project_id"`
	AccessTokenLifetime time.Duration        `yaml:"access_token_lifetime"`
	TokenUpdateEvery    time.Duration        `yaml:"token_update_every"`
	Seed                uint64               `yaml:"seed"`
	Faults              []mockprovider.Fault `yaml:"faults"`
}

// Run plays the services until a signal comes.
func (m mock) Run(p process) error {
	cfg, err := m.config()
	if err != nil {
		return wrong{err}
	}
	services, err := mockprovider.New(cfg)
	if err != nil {
		return wrong{err}
	}
	folder, remove, err := m.folder()
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

func (m mock) config() (mockprovider.Config, error) {
	if m.Config == "" {
		return mockprovider.Config{}, nil
	}
	text, err := os.ReadFile(m.Config)
	if err != nil {
		return mockprovider.Config{}, fmt.Errorf("mock: %w", err)
	}
	var s script
	if err := yaml.Load(text, &s, yaml.WithKnownFields()); err != nil {
		return mockprovider.Config{}, fmt.Errorf("mock: %s: %w", m.Config, err)
	}
	return mockprovider.Config{
		Listen: s.Listen, Endpoints: s.Endpoints, Latency: s.Latency, ProjectID: s.ProjectID, Seed: s.Seed,
		AccessTokenLifetime: s.AccessTokenLifetime, TokenUpdateEvery: s.TokenUpdateEvery,
		Script: mockprovider.Script{Faults: s.Faults},
	}, nil
}

// folder returns where the keys go, and what to do at the end.
func (m mock) folder() (folder string, remove func(), err error) {
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
	return writeWhole(readyFile, text)
}

// writeWhole writes a file so that whoever waits for it finds all of it or none. It can hold a key: only its owner may
// read it.
func writeWhole(path string, text []byte) error {
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
