// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// TestWaitsAreBounded is part of make lint. A test that waits for a channel or a group waits in a
// testing/synctest bubble, in a select, or with internal/testwait, so that it fails with a message
// instead of hanging. Where something else bounds a wait, a comment on its line says so:
// "// bounded by …". Not checked are cleanup, examples, benchmarks, goroutines, and fakes: function
// literals that are passed to another function, and exported methods.
func TestWaitsAreBounded(t *testing.T) {
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		explained := map[int]bool{}
		for _, group := range parsed.Comments {
			for _, comment := range group.List {
				explained[set.Position(comment.Pos()).Line] = strings.HasPrefix(comment.Text, "// bounded by ")
			}
		}
		for _, decl := range parsed.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil || strings.HasPrefix(f.Name.Name, "Example") || has(f.Type, "*testing.B") || f.Recv != nil && f.Name.IsExported() {
				continue
			}
			for _, wait := range waits(f.Body) {
				if at := set.Position(wait.Pos()); !explained[at.Line] {
					t.Errorf("%s: the wait has no bound; use internal/testwait", at)
				}
			}
		}
	}
}

// waits returns the waits in a body that are not in a select or in a function that another goroutine,
// a cleanup or a bubble runs.
func waits(body ast.Node) (found []ast.Node) {
	ast.Inspect(body, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.GoStmt, *ast.DeferStmt:
			return false
		case *ast.CommClause:
			for _, statement := range n.Body {
				found = append(found, waits(statement)...)
			}
			return false
		case *ast.CallExpr:
			if isWait(n) {
				found = append(found, n)
			}
			found = append(found, waits(n.Fun)...)
			for _, arg := range n.Args {
				if literal, ok := arg.(*ast.FuncLit); !ok || isSubtest(n, literal) {
					found = append(found, waits(arg)...)
				}
			}
			return false
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && !endsByItself(n.X) {
				found = append(found, n)
			}
		}
		return true
	})
	return found
}

// isWait reports whether a call is one of Wait without arguments, but not synctest.Wait.
func isWait(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	return ok && f.Sel.Name == "Wait" && len(call.Args) == 0 && types.ExprString(f.X) != "synctest"
}

// isSubtest reports whether a call runs a function literal as a test, but not in a bubble.
func isSubtest(call *ast.CallExpr, f *ast.FuncLit) bool {
	return has(f.Type, "*testing.T") && types.ExprString(call.Fun) != "synctest.Test"
}

// has reports whether a function has a parameter of a type.
func has(f *ast.FuncType, parameter string) bool {
	return slices.ContainsFunc(f.Params.List, func(p *ast.Field) bool { return types.ExprString(p.Type) == parameter })
}

// endsByItself reports whether a channel is one of a timer or of a context.
func endsByItself(channel ast.Expr) bool {
	switch c := channel.(type) {
	case *ast.CallExpr:
		s, ok := c.Fun.(*ast.SelectorExpr)
		return ok && (s.Sel.Name == "Done" || s.Sel.Name == "After")
	case *ast.SelectorExpr:
		return c.Sel.Name == "C"
	}
	return false
}
