// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/mockprovider/script"
)

// configFile is Config in the format of a configuration file.
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
	Streams             streamsFile   `yaml:"streams"`
	Latency             string        `yaml:"latency"`
	Seed                uint64        `yaml:"seed"`
	LedgerSize          int           `yaml:"ledger_size"`
	KeepContent         bool          `yaml:"keep_content"`
	Quotas              string        `yaml:"quotas"`
	Faults              []Fault       `yaml:"faults"`
}

type streamsFile struct {
	Start        int  `yaml:"start"`
	Max          int  `yaml:"max"`
	Unadvertised bool `yaml:"unadvertised"`
	Strict       bool `yaml:"strict"`
	ShrinkOn4xx  bool `yaml:"shrink_on_4xx"`
}

// ParseConfig reads a Config from YAML or JSON. The keys are the names of Config's fields in snake
// case. The faults of Script are in faults, and quotas: documented adds DocumentedQuotas after them.
// Its error names the line and key of every mistake.
func ParseConfig(text []byte) (Config, error) {
	if len(text) > 1<<20 {
		return Config{}, errors.New("mock: longer than 1 MiB")
	}
	var f configFile
	if isBlank(text) {
		return Config{}, nil
	}
	if err := yaml.Load(text, &f, yaml.WithKnownFields()); err != nil {
		return Config{}, script.FormatError("mock", text, f, err)
	}
	errs := script.CheckFaults("mock", text, f.Faults)
	cfg := f.config()
	if key, problem := cfg.check(); key != "" {
		errs = append(errs, fmt.Errorf("mock: line %d: %s: %s", lineOf(text, key), key, problem))
	}
	switch f.Quotas {
	case "":
	case "documented":
		cfg.Script.Faults = append(cfg.Script.Faults, DocumentedQuotas()...)
	default:
		errs = append(errs, fmt.Errorf("mock: line %d: quotas: %q is unknown (allowed: documented)", lineOf(text, "quotas"), f.Quotas))
	}
	if errs != nil {
		return Config{}, errors.Join(errs...)
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

// isBlank reports whether a file has only comments and blank lines.
func isBlank(text []byte) bool {
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// lineOf returns the line of a key of a file that has been parsed without error.
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
