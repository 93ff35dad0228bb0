// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v4"
)

// configFile is Config as a file spells it.
type configFile struct {
	Listen              string        `yaml:"listen"`
	Advertise           string        `yaml:"advertise"`
	Endpoints           int           `yaml:"endpoints"`
	APNsListen          []string      `yaml:"apns_listen"`
	APNsManageListen    string        `yaml:"apns_manage_listen"`
	FCMListen           []string      `yaml:"fcm_listen"`
	OAuthListen         string        `yaml:"oauth_listen"`
	WebPushListen       string        `yaml:"webpush_listen"`
	LedgerListen        string        `yaml:"ledger_listen"`
	ProjectID           string        `yaml:"project_id"`
	AccessTokenLifetime time.Duration `yaml:"access_token_lifetime"`
	TokenUpdateEvery    time.Duration `yaml:"token_update_every"`
	Streams             streamsInFile `yaml:"streams"`
	Latency             string        `yaml:"latency"`
	Seed                uint64        `yaml:"seed"`
	LedgerSize          int           `yaml:"ledger_size"`
	KeepContent         bool          `yaml:"keep_content"`
	Quotas              string        `yaml:"quotas"`
	Faults              []Fault       `yaml:"faults"`
}

type streamsInFile struct {
	Start        int  `yaml:"start"`
	Max          int  `yaml:"max"`
	Unadvertised bool `yaml:"unadvertised"`
	ShrinkOn4xx  bool `yaml:"shrink_on_4xx"`
}

// ParseConfig reads a Config from YAML or JSON. The keys are the names of Config's members in snake case, faults stands
// for Script, and quotas: documented adds DocumentedQuotas after the faults. Its error names every line and key that is
// wrong.
func ParseConfig(text []byte) (Config, error) {
	if len(text) > 1<<20 {
		return Config{}, errors.New("mock: longer than 1 MiB")
	}
	var f configFile
	if isBlank(text) {
		return Config{}, nil
	}
	if err := yaml.Load(text, &f, yaml.WithKnownFields()); err != nil {
		return Config{}, readable("mock", err)
	}
	wrong := checkFaults("mock", text, f.Faults)
	cfg := f.config()
	if key, why := cfg.fault(); key != "" {
		wrong = append(wrong, fmt.Errorf("mock: line %d: %s: %s", lineOf(text, key), key, why))
	}
	switch f.Quotas {
	case "":
	case "documented":
		cfg.Script.Faults = append(cfg.Script.Faults, DocumentedQuotas()...)
	default:
		wrong = append(wrong, fmt.Errorf("mock: line %d: quotas: %q is unknown (allowed: documented)", lineOf(text, "quotas"), f.Quotas))
	}
	if wrong != nil {
		return Config{}, errors.Join(wrong...)
	}
	return cfg, nil
}

func (f *configFile) config() Config {
	return Config{
		Listen: f.Listen, Advertise: f.Advertise, Endpoints: f.Endpoints, APNsListen: f.APNsListen, APNsManageListen: f.APNsManageListen,
		FCMListen: f.FCMListen, OAuthListen: f.OAuthListen, WebPushListen: f.WebPushListen, LedgerListen: f.LedgerListen,
		ProjectID: f.ProjectID, AccessTokenLifetime: f.AccessTokenLifetime, TokenUpdateEvery: f.TokenUpdateEvery,
		Streams: Streams(f.Streams), Latency: f.Latency, Seed: f.Seed, LedgerSize: f.LedgerSize, KeepContent: f.KeepContent,
		Script: Script{Faults: f.Faults},
	}
}

// isBlank is true of a file that holds nothing but comments.
func isBlank(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// lineOf is where a key of the file stands. The text has been loaded before.
func lineOf(text []byte, key string) int {
	var root yaml.Node
	if err := yaml.Load(text, &root); err != nil || len(root.Content) == 0 {
		return 1
	}
	pairs := root.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i].Value == key {
			return pairs[i].Line
		}
	}
	return 1
}
