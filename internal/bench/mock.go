// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/report"
	"github.com/sluice-push/sluice/mockprovider"
)

// mock is a client for the ledger and the fault script of the mock providers. Both URLs may be
// empty.
type mock struct {
	ledger, script string
	http           *http.Client
}

func newMock(ledger, script string) *mock {
	return &mock{ledger, script, &http.Client{Timeout: 10 * time.Second}}
}

// acceptedCount returns the number of notifications that the mock has accepted since its start, or
// nil if the ledger's URL is unknown.
func (m *mock) acceptedCount(ctx context.Context) (*int, error) {
	if m.ledger == "" {
		return nil, nil
	}
	text, err := m.request(ctx, http.MethodGet, strings.TrimSuffix(m.ledger, "/")+"/summary", nil)
	if err != nil {
		return nil, err
	}
	var s mockprovider.Summary
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("bench: the mock's ledger at %s: %w", m.ledger, err)
	}
	accepted := new(int)
	for _, service := range []string{mockprovider.APNs, mockprovider.FCM, mockprovider.WebPush} {
		*accepted += int(s.Services[service].Accepted)
	}
	return accepted, nil
}

// startScript starts a fault script.
func (m *mock) startScript(ctx context.Context, script []byte) error {
	_, err := m.request(ctx, http.MethodPut, m.script, script)
	return err
}

// stopScript stops the fault script if one was started.
func (m *mock) stopScript(started bool) {
	if started {
		_, _ = m.request(context.Background(), http.MethodDelete, m.script, nil) // the test has ended; an error does not matter
	}
}

func (m *mock) request(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	response, err := m.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("bench: mock: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err == nil && response.StatusCode > 299 {
		err = fmt.Errorf("bench: mock: %s %s: %s: %s", method, url, response.Status, bytes.TrimSpace(text))
	}
	return text, err
}

// parseFaults returns the faults of a script for the report.
func parseFaults(text []byte) (faults []report.Fault, err error) {
	if len(text) == 0 {
		return nil, nil
	}
	script, err := mockprovider.ParseScript(text)
	if err != nil {
		return nil, fmt.Errorf("bench: faults: %w", err)
	}
	for _, f := range script.Faults {
		fault := report.Fault{From: f.From.Seconds(), Until: f.Until.Seconds()}
		f.From, f.Until = 0, 0
		if fault.Description, err = describeFault(f); err != nil {
			return nil, err
		}
		faults = append(faults, fault)
	}
	return faults, nil
}

// yamlPunctuation removes YAML syntax.
var yamlPunctuation = strings.NewReplacer(`"`, "", "'", "", "service: ", "", ": true", "", ": ", " ")

// describeFault formats a fault on one line, in the words of the script.
func describeFault(f mockprovider.Fault) (string, error) {
	text, err := (mockprovider.Script{Faults: []mockprovider.Fault{f}}).YAML()
	if err != nil {
		return "", fmt.Errorf("bench: faults: %w", err)
	}
	var parts []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "- "))
		if line != "" && line != "faults:" {
			parts = append(parts, yamlPunctuation.Replace(line))
		}
	}
	return strings.Join(parts, ", "), nil
}
