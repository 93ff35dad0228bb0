// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"encoding/json"
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

// panel is a panel of a dashboard, or a row of them.
type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource map[string]string
	Targets    []struct{ Expr string }
}

// builtInPanels are panels that every Grafana has.
var builtInPanels = []string{"row", "stat", "table", "timeseries", "text"}

func TestDashboardsUseExistingMetrics(t *testing.T) {
	exported := series(t)
	files, err := filepath.Glob(filepath.Join(deployDir, "grafana/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	uids := map[string]bool{}
	for _, file := range files {
		var d struct {
			UID, Title    string
			SchemaVersion int
			Templating    struct {
				List []struct{ Name, Type, Definition string }
			}
			Panels []panel
		}
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		if err != nil {
			t.Fatal(file, err)
		}
		if d.UID == "" || uids[d.UID] || d.Title == "" || d.SchemaVersion < 37 { // 37 is that of Grafana 9.2
			t.Errorf("%s: uid %q, title %q, version %d", file, d.UID, d.Title, d.SchemaVersion)
		}
		uids[d.UID] = true
		if list := d.Templating.List; len(list) == 0 || list[0].Type != "datasource" || list[0].Name != "datasource" {
			t.Errorf("%s: the first variable is not the data source", file)
		}
		for _, v := range d.Templating.List {
			if v.Type == "query" {
				checkQuery(t, file+": "+v.Name, v.Definition, exported)
			}
		}
		ids := map[int]bool{}
		for _, p := range d.Panels {
			where := file + ": " + p.Title
			if p.ID == 0 || ids[p.ID] || !slices.Contains(builtInPanels, p.Type) {
				t.Errorf("%s: number %d, type %s", where, p.ID, p.Type)
			}
			ids[p.ID] = true
			if p.Type == "row" {
				continue
			}
			if p.Datasource["uid"] != "${datasource}" || len(p.Targets) == 0 {
				t.Errorf("%s: data source %v, %d queries", where, p.Datasource, len(p.Targets))
			}
			for _, target := range p.Targets {
				checkQuery(t, where, target.Expr, exported)
			}
		}
	}
}
