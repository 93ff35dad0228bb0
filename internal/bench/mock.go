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

// mock is the mock providers behind what is measured, as far as they are known.
type mock struct {
	ledger, script string
	http           *http.Client
}

func newMock(ledger, script string) *mock {
	return &mock{ledger, script, &http.Client{Timeout: 10 * time.Second}}
}

// acceptedCount is how many notifications the mock has taken since it began; nil if it has no ledger that would be known.
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
	took := new(int)
	for _, word := range []string{mockprovider.APNs, mockprovider.FCM, mockprovider.WebPush} {
		*took += int(s.Services[word].Accepted)
	}
	return took, nil
}

// startScript begins a script.
func (m *mock) startScript(ctx context.Context, script []byte) error {
	_, err := m.request(ctx, http.MethodPut, m.script, script)
	return err
}

// stopScript ends the script, if one was begun.
func (m *mock) stopScript(begun bool) {
	if begun {
		_, _ = m.request(context.Background(), http.MethodDelete, m.script, nil) // the test is over
	}
}

func (m *mock) request(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	answer, err := m.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("bench: the mock: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err == nil && answer.StatusCode > 299 {
		err = fmt.Errorf("bench: the mock answers %s to %s %s: %s", answer.Status, method, url, bytes.TrimSpace(text))
	}
	return text, err
}

// parseFaults says in words what a script will do, and when.
func parseFaults(text []byte) (found []report.Fault, err error) {
	if len(text) == 0 {
		return nil, nil
	}
	script, err := mockprovider.ParseScript(text)
	if err != nil {
		return nil, fmt.Errorf("bench: faults: %w", err)
	}
	for _, f := range script.Faults {
		one := report.Fault{From: f.From.Seconds(), Until: f.Until.Seconds()}
		f.From, f.Until = 0, 0
		if one.Description, err = describeFault(f); err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, nil
}

// yamlPunctuation takes a script's marks away.
var yamlPunctuation = strings.NewReplacer(`"`, "", "'", "", "service: ", "", ": true", "", ": ", " ")

// describeFault writes a fault as its script does, on one line.
func describeFault(f mockprovider.Fault) (string, error) {
	text, err := (mockprovider.Script{Faults: []mockprovider.Fault{f}}).YAML()
	if err != nil {
		return "", fmt.Errorf("bench: faults: %w", err)
	}
	var words []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "- "))
		if line != "" && line != "faults:" {
			words = append(words, yamlPunctuation.Replace(line))
		}
	}
	return strings.Join(words, ", "), nil
}
