// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/metrics"
)

const (
	deployDir  = "../../deploy"
	runbookDir = "../../docs/runbooks"
	runbookURL = "https://github.com/sluice-push/sluice/blob/main/docs/runbooks/"
)

// alertRule is an alert in rules.yaml.
type alertRule struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

// readYAML reads a YAML file into v.
func readYAML(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatal(path, err)
	}
}

func readAlerts(t *testing.T) (rules []alertRule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alertRule
		}
	}
	readYAML(t, filepath.Join(deployDir, "prometheus/rules.yaml"), &file)
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	if len(rules) == 0 {
		t.Fatal("no alerts")
	}
	return rules
}

// series are the names of series that the gateway exports, with their labels.
func series(t *testing.T) map[string][]string {
	all := map[string][]string{"up": nil}
	withAllMetrics(t, func(t *testing.T, m *metrics.Metrics) {
		families, err := m.Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			names := []string{family.GetName()}
			if family.GetMetric()[0].GetHistogram() != nil {
				names = []string{family.GetName() + "_bucket", family.GetName() + "_sum", family.GetName() + "_count"}
			}
			for _, name := range names {
				for _, label := range family.GetMetric()[0].GetLabel() {
					all[name] = append(all[name], label.GetName())
				}
				all[name] = append(all[name], "job", "instance", "le")
			}
		}
	})
	return all
}

var (
	metricName    = regexp.MustCompile(`\b(?:sluice|process|go|promhttp)_[a-z0-9_]+\b|\bup\b`)
	selector      = regexp.MustCompile(`([a-z_0-9]+)\{([^}]*)\}`)
	matcher       = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	labelOfAlert  = regexp.MustCompile(`\$labels\.([a-z]+)`)
	alertLabels   = []string{"app", "instance", "lane", "platform", "pool", "reason", "webhook"} // none of them contains a secret
	quotedStrings = regexp.MustCompile(`"[^"]*"`)
)

// checkQuery checks that the series and the labels of a query exist.
func checkQuery(t *testing.T, where, query string, exported map[string][]string) {
	t.Helper()
	names := metricName.FindAllString(quotedStrings.ReplaceAllString(query, `""`), -1)
	if len(names) == 0 {
		t.Errorf("%s: no metric in %s", where, query)
	}
	for _, name := range names {
		if _, found := exported[name]; !found {
			t.Errorf("%s: the gateway does not export %s", where, name)
		}
	}
	for _, s := range selector.FindAllStringSubmatch(query, -1) {
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(exported[s[1]], m[1]) {
				t.Errorf("%s: %s has no label %s", where, s[1], m[1])
			}
		}
	}
}

// TestAlertsAreComplete checks what promtool does not: that the metrics of an alert exist, and that
// it has a severity, a runbook page, a unit test and a row in docs/metrics.md.
func TestAlertsAreComplete(t *testing.T) {
	exported := series(t)
	overview, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var tests struct {
		Tests []struct {
			Rules []struct {
				Name   string `yaml:"alertname"`
				Alerts []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, filepath.Join(deployDir, "prometheus/rules_test.yaml"), &tests)
	fires := map[string]bool{}
	for _, test := range tests.Tests {
		for _, rule := range test.Rules {
			fires[rule.Name] = fires[rule.Name] || len(rule.Alerts) > 0
		}
	}
	var pages []string
	for _, rule := range readAlerts(t) {
		checkQuery(t, rule.Alert, rule.Expr, exported)
		if s := rule.Labels["severity"]; s != "critical" && s != "warning" || rule.For == "" || rule.Annotations["summary"] == "" {
			t.Errorf("%s needs a severity, a time in for, and a summary", rule.Alert)
		}
		for _, m := range labelOfAlert.FindAllStringSubmatch(rule.Annotations["summary"], -1) {
			if !slices.Contains(alertLabels, m[1]) {
				t.Errorf("%s: the summary contains the label %s", rule.Alert, m[1])
			}
		}
		page, found := strings.CutPrefix(rule.Annotations["runbook_url"], runbookURL)
		text, err := os.ReadFile(filepath.Join(runbookDir, page))
		if err != nil || !found || !strings.HasPrefix(string(text), "# "+rule.Alert+"\n") {
			t.Errorf("%s: %s is not its page (%v)", rule.Alert, rule.Annotations["runbook_url"], err)
		}
		for _, section := range []string{"\n## How to see it\n", "\n## What to do first\n", "\n## What not to do\n"} {
			if !strings.Contains(string(text), section) {
				t.Errorf("%s has no section %s", page, section)
			}
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			_, plain := exported[name]
			_, histogram := exported[name+"_bucket"]
			if !plain && !histogram && strings.Contains(name, "_") {
				t.Errorf("%s: the gateway does not export %s", page, name)
			}
		}
		if !strings.Contains(string(overview), "| ["+rule.Alert+"](runbooks/"+page+") | "+rule.Labels["severity"]+" |") {
			t.Errorf("%s has no row for %s", document, rule.Alert)
		}
		if !fires[rule.Alert] {
			t.Errorf("rules_test.yaml has no test in which %s fires", rule.Alert)
		}
		pages = append(pages, page)
	}
	files, err := os.ReadDir(runbookDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !slices.Contains(pages, file.Name()) {
			t.Errorf("%s has no alert", file.Name())
		}
	}
}
