// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// reasonPackages are the packages whose reasons get into receipts.
var reasonPackages = []string{
	"push", "wire", "pool", "providers/apns", "providers/fcm", "providers/webpush", "quota", "retry", "internal/delivery", "internal/broadcast", "internal/queue", "internal/history", "internal/gateway",
}

// reasonTables are the variables whose keys or values are reasons: true for the keys.
var reasonTables = map[string]bool{"statusCodes": true, "oauthErrors": true, "reasonByStatus": false}

// reasonConst matches the names of constants that are reasons, in packages where not all strings are.
var reasonConst = regexp.MustCompile(`^(reason|Reason|oauth|invalid|payload|unknownReason|tooManyTopics|IntermediaryResponse)`)

// isReason matches reasons, and not texts, paths or field names with a dot.
var isReason = regexp.MustCompile(`^([A-Z][A-Za-z]+|Service Unavailable|[A-Z][A-Z_0-9]+|[a-z]+(_[a-z]+)+|[a-z-]+|errno \d+)$`)

// reasonsInCode returns the reasons in the source code of the packages. It knows the ways in which
// they write them: constants, tables, and the field Reason.
func reasonsInCode(t testing.TB) []string {
	t.Helper()
	found := map[string]bool{}
	add := func(e ast.Expr) {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil && isReason.MatchString(text) {
				found[text] = true
			}
		}
	}
	for _, dir := range reasonPackages {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ValueSpec:
					addSpec(n, filepath.Base(file) == "error.go", add)
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "Reason" || key.Name == "code") {
						add(n.Value)
					}
					addResponseKey(n.Key, add)
				case *ast.CallExpr:
					if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "invalid" || f.Name == "invalidCall") && len(n.Args) > 2 {
						add(n.Args[len(n.Args)-2])
					}
				case *ast.AssignStmt:
					if left, ok := n.Lhs[len(n.Lhs)-1].(*ast.Ident); ok && left.Name == "reason" {
						add(n.Rhs[len(n.Rhs)-1])
					}
				}
				return true
			})
		}
	}
	delete(found, "draining") // of the readiness
	delete(found, "drained")  // of a pool's event
	return slices.Sorted(maps.Keys(found))
}

// addSpec adds the constants and tables of a declaration.
func addSpec(spec *ast.ValueSpec, all bool, add func(ast.Expr)) {
	for i, value := range spec.Values {
		name := spec.Names[i].Name
		if all || reasonConst.MatchString(name) {
			add(value)
		}
		keys, isTable := reasonTables[name]
		table, ok := value.(*ast.CompositeLit)
		if !isTable || !ok {
			continue
		}
		for _, element := range table.Elts {
			if pair := element.(*ast.KeyValueExpr); keys {
				add(pair.Key)
			} else {
				add(pair.Value)
			}
		}
	}
}

// addResponseKey adds the reason of a key such as {400, "BadTopic"}.
func addResponseKey(key ast.Expr, add func(ast.Expr)) {
	literal, ok := key.(*ast.CompositeLit)
	if !ok || len(literal.Elts) < 2 {
		return
	}
	if status, ok := literal.Elts[len(literal.Elts)-2].(*ast.BasicLit); ok && status.Kind == token.INT {
		add(literal.Elts[len(literal.Elts)-1])
	}
}

// batchReasons returns the reasons of problems with single items, which the table of problems lists.
func batchReasons(t testing.TB) (reasons []string) {
	table := openAPIDoc(t).path(t, "components", "schemas", "Problem")["description"].(string)
	for _, row := range regexp.MustCompile("(?m)^\\|[^|]*\\|[^|]*\\| `(\\w+)` \\|").FindAllStringSubmatch(table, -1) {
		reasons = append(reasons, row[1])
	}
	return reasons
}

// TestOpenAPIDocumentsEveryReason compares the reasons in the code with the enumeration in the
// document, and this with the table of their meanings.
func TestOpenAPIDocumentsEveryReason(t *testing.T) {
	inCode := append(reasonsInCode(t), batchReasons(t)...)
	slices.Sort(inCode)
	inCode = slices.Compact(inCode)
	schema := openAPIDoc(t).path(t, "components", "schemas", "Reason")
	var enum, documented []string
	for _, value := range schema["enum"].([]any) {
		enum = append(enum, value.(string))
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| [A-Z`][^|]+\\. \\|$").FindAllStringSubmatch(schema["description"].(string), -1) {
		documented = append(documented, row[1])
	}
	if !slices.IsSorted(enum) {
		t.Error("the enumeration is not sorted")
	}
	if diff := cmp.Diff(inCode, enum); diff != "" || len(inCode) < 100 {
		t.Errorf("code (-) and enumeration (+):\n%s", diff)
	}
	slices.Sort(documented)
	if diff := cmp.Diff(enum, documented); diff != "" {
		t.Errorf("enumeration (-) and its table (+):\n%s", diff)
	}
}
