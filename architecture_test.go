// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sluice-push/sluice"

// packageRule says where a package stands in the import order.
type packageRule struct {
	layer     int
	mayImport []string
	why       string // why an import that looks natural is missing
}

// packages lists every package of the module with its layer and the packages
// of the module that it may import. An import goes to a lower layer only.
// docs/design.md draws the same layers; change both in one commit.
var packages = map[string]packageRule{
	"push":                             {layer: 0},
	"wire":                             {layer: 0},
	"webhook":                          {layer: 0, why: "receivers import it without the rest of the module"},
	"mockprovider/jwt":                 {layer: 0},
	"mockprovider/jwt/jwttest":         {layer: 0},
	"mockprovider/h2":                  {layer: 0, why: "it does not know any service"},
	"mockprovider/h2/h2test":           {layer: 0},
	"mockprovider/script":              {layer: 1, mayImport: []string{"mockprovider/h2"}, why: "it calls services through an interface of its own"},
	"mockprovider/apns":                {layer: 2, mayImport: []string{"mockprovider/h2", "mockprovider/jwt", "mockprovider/script"}},
	"mockprovider/oauth":               {layer: 2, mayImport: []string{"mockprovider/h2", "mockprovider/jwt", "mockprovider/script"}},
	"mockprovider/fcm":                 {layer: 2, mayImport: []string{"mockprovider/h2", "mockprovider/script"}, why: "it looks up access tokens through an interface of its own"},
	"mockprovider/webpush":             {layer: 2, mayImport: []string{"mockprovider/h2", "mockprovider/jwt", "mockprovider/script"}},
	"mockprovider/webpush/webpushtest": {layer: 1, mayImport: []string{"mockprovider/jwt/jwttest"}},
	"mockprovider/ledger":              {layer: 0},
	"mockprovider": {layer: 3, mayImport: []string{
		"mockprovider/apns", "mockprovider/fcm", "mockprovider/h2", "mockprovider/ledger", "mockprovider/oauth", "mockprovider/script", "mockprovider/webpush",
	}, why: "a mock that shares code with the product repeats the product's mistakes"},
	"docs":                     {layer: 0},
	"internal/docsite":         {layer: 0, why: "the documentation is an fs.FS"},
	"internal/docsite/build":   {layer: 1, mayImport: []string{"docs", "internal/docsite"}},
	"internal/asyncwriter":     {layer: 0},
	"internal/buildinfo":       {layer: 0},
	"internal/config":          {layer: 0},
	"internal/jsonobj":         {layer: 0},
	"internal/atomicfile":      {layer: 0},
	"internal/keyfile":         {layer: 0},
	"internal/fairqueue":       {layer: 0},
	"internal/testtool":        {layer: 0, why: "only tests import it"},
	"internal/testwait":        {layer: 0, why: "only tests import it"},
	"internal/keyring":         {layer: 0},
	"internal/loglimit":        {layer: 0},
	"internal/panics":          {layer: 0},
	"internal/proxy":           {layer: 0, why: "it knows no provider"},
	"internal/proxy/proxytest": {layer: 0, why: "only tests import it"},
	"internal/publicaddr":      {layer: 0},
	"internal/sleep":           {layer: 0},
	"internal/strictjson":      {layer: 0, why: "a caller passes the functions for its types in"},
	"internal/subprocess":      {layer: 0},
	"internal/report/uplot":    {layer: 0},

	"internal/identity/identitytest": {layer: 0, why: "only tests import it, and it shares no code with what it tests"},

	"providers/apns":               {layer: 1, mayImport: []string{"internal/jsonobj", "internal/keyfile", "push", "wire"}},
	"providers/fcm":                {layer: 1, mayImport: []string{"internal/jsonobj", "internal/keyfile", "internal/panics", "push", "wire"}},
	"providers/webpush":            {layer: 1, mayImport: []string{"internal/keyfile", "push", "wire"}},
	"providers/providertest":       {layer: 1, mayImport: []string{"push", "wire"}, why: "a test passes the provider in"},
	"internal/configsource":        {layer: 1, mayImport: []string{"internal/atomicfile", "internal/panics"}},
	"internal/jetstream":           {layer: 1, mayImport: []string{"internal/keyring", "internal/loglimit", "internal/panics"}},
	"pool":                         {layer: 1, mayImport: []string{"internal/fairqueue", "internal/panics", "internal/publicaddr", "internal/sleep", "push", "wire"}},
	"retry":                        {layer: 1, mayImport: []string{"push"}},
	"quota":                        {layer: 1, mayImport: []string{"internal/fairqueue", "push"}},
	"internal/webhooks":            {layer: 1, mayImport: []string{"internal/panics", "internal/publicaddr", "internal/sleep", "push"}},
	"internal/report":              {layer: 1, mayImport: []string{"internal/report/uplot"}, why: "it draws figures and does not measure"},
	"internal/bench":               {layer: 4, mayImport: []string{"internal/load", "internal/report", "internal/sleep", "mockprovider"}, why: "it measures every gateway over HTTP, as it measures the peers"},
	"internal/identity":            {layer: 1, mayImport: []string{"internal/sleep"}, why: "the gateway passes the configuration in"},
	"internal/audience":            {layer: 1, mayImport: []string{"internal/strictjson", "push"}, why: "a caller passes the check of a target in"},
	"internal/load":                {layer: 1, mayImport: []string{"internal/sleep"}, why: "it calls gateways as it calls peers, over HTTP"},
	"internal/tracing":             {layer: 1, mayImport: []string{"internal/loglimit", "push"}, why: "it gets what it needs of a delivery from the gateway"},
	"internal/tracing/tracingtest": {layer: 1, mayImport: []string{"internal/testwait"}, why: "only tests import it"},

	"zone":                             {layer: 2, mayImport: []string{"pool"}},
	"internal/jetstream/jetstreamtest": {layer: 2, mayImport: []string{"internal/jetstream", "internal/keyring", "internal/sleep", "internal/subprocess"}},
	"internal/idempotency":             {layer: 2, mayImport: []string{"internal/jetstream", "push"}, why: "it calls the history and the queue through interfaces of its own"},
	"internal/tally":                   {layer: 1, mayImport: []string{"push"}},
	"internal/quotalease":              {layer: 2, mayImport: []string{"internal/jetstream", "internal/panics"}, why: "it sets rate limits through an interface of its own"},
	"internal/auditlog":                {layer: 2, mayImport: []string{"internal/jetstream"}},
	"internal/audit":                   {layer: 2, mayImport: []string{"internal/jetstream", "internal/record", "push"}, why: "it must not share code with the packages that it audits"},
	"internal/record":                  {layer: 1, mayImport: []string{"push"}},
	"internal/broadcast":               {layer: 2, mayImport: []string{"internal/audience", "internal/jetstream", "internal/panics", "internal/sleep", "internal/strictjson", "internal/tally", "push"}, why: "it calls the queue through an interface of its own"},
	"internal/queue":                   {layer: 2, mayImport: []string{"internal/atomicfile", "internal/jetstream", "internal/panics", "internal/record", "internal/sleep", "internal/tally", "push"}},
	"internal/history":                 {layer: 2, mayImport: []string{"internal/atomicfile", "internal/jetstream", "internal/record", "push"}, why: "the queue calls it through an interface of its own"},
	"internal/delivery":                {layer: 2, mayImport: []string{"internal/fairqueue", "internal/sleep", "push", "wire", "pool", "retry", "quota"}},

	"internal/api": {layer: 3, mayImport: []string{"internal/audience", "internal/auditlog", "internal/broadcast", "internal/idempotency", "internal/identity", "internal/loglimit", "internal/panics", "internal/strictjson", "internal/tracing", "push"}, why: "it calls the gateway through interfaces of its own"},

	"client":           {layer: 3, mayImport: []string{"push", "wire", "internal/delivery", "internal/sleep", "pool", "zone", "retry"}, why: "it calls gateways over HTTP; only its tests run one"},
	"internal/metrics": {layer: 3, mayImport: []string{"push", "internal/broadcast", "internal/buildinfo", "internal/delivery", "pool", "quota", "internal/queue", "internal/history", "internal/panics", "internal/webhooks"}},

	"internal/console": {layer: 3, mayImport: []string{
		"docs", "internal/audience", "internal/broadcast", "internal/docsite", "internal/identity", "internal/queue", "internal/report/uplot", "internal/strictjson", "pool", "push", "quota",
	}, why: "it calls the API and the gateway through functions"},

	"internal/gateway": {layer: 4, mayImport: []string{
		"internal/console", "push", "wire", "internal/config", "providers/apns", "providers/fcm", "providers/webpush", "pool", "retry", "quota", "internal/api",
		"internal/audit", "internal/auditlog", "internal/broadcast", "internal/buildinfo", "internal/delivery", "internal/metrics", "internal/jetstream", "internal/history", "internal/idempotency", "internal/identity", "internal/keyfile", "internal/keyring", "internal/loglimit", "internal/panics", "internal/proxy", "internal/queue", "internal/quotalease", "internal/tracing", "internal/webhooks",
	}, why: "only cmd and tests import the mock"},

	"cmd/gateway": {layer: 5, mayImport: []string{
		"client", "internal/console", "internal/gateway", "internal/asyncwriter", "internal/atomicfile", "internal/audit", "internal/auditlog", "internal/broadcast", "internal/buildinfo", "internal/config", "internal/configsource", "internal/identity", "internal/jetstream", "internal/keyring", "internal/bench", "internal/panics",
		"internal/report", "internal/subprocess", "mockprovider", "pool", "quota", "providers/webpush", "push", "internal/api",
	}},
	"internal/scorecard": {layer: 5, why: "it has only tests"},
}

// emptyNames are package names that say nothing about their contents.
var emptyNames = []string{"util", "utils", "common", "helpers", "types", "models", "misc"}

func TestImportsGoToLowerLayers(t *testing.T) {
	for _, file := range goFiles(t) {
		dir := path.Dir(file)
		if dir == "." || strings.HasSuffix(file, "_test.go") {
			continue
		}
		rule, known := packages[dir]
		if !known {
			t.Errorf("%s: package %q is not listed in architecture_test.go and docs/design.md", file, dir)
			continue
		}
		for _, imported := range moduleImports(t, file) {
			if !slices.Contains(rule.mayImport, imported) {
				t.Errorf("%s: %s may not import %s; allowed: %v %s", file, dir, imported, rule.mayImport, rule.why)
			}
		}
	}
}

func TestEveryAllowedImportIsUsed(t *testing.T) {
	used := map[string]map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		dir := path.Dir(file)
		if used[dir] == nil {
			used[dir] = map[string]bool{}
		}
		for _, imported := range moduleImports(t, file) {
			used[dir][imported] = true
		}
	}
	for dir, rule := range packages {
		if used[dir] == nil {
			t.Errorf("package %s is listed but has no files", dir)
		}
		for _, allowed := range rule.mayImport {
			if !used[dir][allowed] {
				t.Errorf("%s may import %s but does not; remove it from the list", dir, allowed)
			}
		}
	}
}

func TestLayersAreOrdered(t *testing.T) {
	for dir, rule := range packages {
		for _, imported := range rule.mayImport {
			below, known := packages[imported]
			if !known {
				t.Errorf("%s may import %s, which is not listed", dir, imported)
			} else if below.layer >= rule.layer {
				t.Errorf("%s (layer %d) may import %s (layer %d)", dir, rule.layer, imported, below.layer)
			}
		}
	}
}

func TestPackageNamesSayWhatIsInside(t *testing.T) {
	for _, file := range goFiles(t) {
		for part := range strings.SplitSeq(path.Dir(file), "/") {
			if slices.Contains(emptyNames, part) {
				t.Errorf("%s: the package name %q does not say what the package is for", file, part)
			}
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	docs := map[string]string{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") || path.Dir(file) == "." {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if text := parsed.Doc.Text(); text != "" {
			if docs[path.Dir(file)] != "" {
				t.Errorf("%s: the package has a second package comment", file)
			}
			docs[path.Dir(file)] = new(doc.Package).Synopsis(text)
		} else if docs[path.Dir(file)] == "" {
			docs[path.Dir(file)] = ""
		}
	}
	for dir, synopsis := range docs {
		if synopsis == "" {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestEveryFileHasLicenseLine(t *testing.T) {
	for _, file := range goFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s: the first line is not the SPDX line", file)
		}
	}
}

// TestToolsAreRequiredInCI finds tests that look for a program without internal/testtool. Such a test
// would skip, or check less, in CI if the program were missing.
func TestToolsAreRequiredInCI(t *testing.T) {
	for _, file := range goFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") && strings.Contains(string(text), "exec.Look"+"Path") {
			t.Errorf("%s: use testtool.Require", file)
		}
	}
}

// goFiles lists the module's Go files by their slash-separated path. Nested
// modules (tools, compatibility tests) are left out.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." {
			if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "examples" {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return filepath.SkipDir
			}
		}
		if strings.HasSuffix(name, ".go") {
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// moduleImports lists the packages of this module that a file imports.
func moduleImports(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if dir, ok := strings.CutPrefix(name, module+"/"); ok {
			imports = append(imports, dir)
		}
	}
	return imports
}
