// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

const referenceStart = `# Command reference

All commands and flags of the program ` + "`gateway`" + `, which ` + "`gateway COMMAND --help`" + ` prints as well.
Flags with a value accept ` + "`--flag VALUE` and `--flag=VALUE`" + `. The exit code is 0 after success, 2
after invalid usage or an invalid configuration, and 1 after any other failure.

`

// TestCommandPageIsUpToDate compares docs/reference/cli.md with the commands. After a change, make
// reference writes the page.
func TestCommandPageIsUpToDate(t *testing.T) {
	const page = "../../docs/reference/cli.md"
	want := commandPage()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(page); err != nil || string(text) != want {
		t.Errorf("%s does not match the commands, update it with: make reference (%v)", page, err)
	}
}

// commandPage returns the reference of all commands.
func commandPage() string {
	var b strings.Builder
	b.WriteString(referenceStart + "| command | purpose |\n|---|---|\n")
	var commands []*kong.Node
	for _, top := range newParser(process{}).Model.Children {
		if !top.Hidden {
			commands = append(append(commands, top), top.Children...)
		}
	}
	for _, c := range commands {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", c.FullPath(), strings.ReplaceAll(c.FullPath(), " ", "-"), c.Help)
	}
	for _, c := range commands {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n%s", c.FullPath(), wrap(c.Help, 100), detail(c.Detail))
		writeFlags(&b, c)
	}
	return b.String()
}

// detail converts the description of a command: indented examples become code blocks.
func detail(text string) string {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if example, found := strings.CutPrefix(paragraph, "    "); found {
			fmt.Fprintf(&b, "\n```text\n%s\n```\n", strings.ReplaceAll(example, "\n    ", "\n"))
		} else if paragraph != "" {
			fmt.Fprintf(&b, "\n%s\n", wrap(paragraph, 100))
		}
	}
	return b.String()
}

// writeFlags writes the table of arguments and flags of a command.
func writeFlags(b *strings.Builder, c *kong.Node) {
	var rows []string
	for _, argument := range c.Positional {
		rows = append(rows, fmt.Sprintf("| `%s` | | | %s |\n", argument.Summary(), argument.Help))
	}
	for _, f := range c.Flags {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			continue
		}
		name, def := "`--"+f.Name+"`", ""
		if f.IsBool() && f.Tag.Negatable != "" {
			name += ", `--no-" + f.Name + "`"
		} else if !f.IsBool() {
			name = "`--" + f.Name + "=" + strings.Trim(strings.TrimSuffix(f.FormatPlaceHolder(), ";..."), `"`) + "`"
			if f.HasDefault {
				name = "`--" + f.Name + "=VALUE`"
			}
		}
		if f.Short != 0 {
			name += ", `-" + string(f.Short) + "`"
		}
		if f.HasDefault && f.Default != "" && !f.IsBool() {
			def = "`" + f.Default + "`"
		}
		switch {
		case f.Required && f.Xor != nil:
			def = "one of these"
		case f.Required:
			def = "required"
		}
		envs := ""
		for i, env := range f.Envs {
			if envs += "`" + env + "`"; i < len(f.Envs)-1 {
				envs += ", "
			}
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s |\n", name, def, envs, strings.ReplaceAll(f.Help, "|", `\|`)))
	}
	if rows != nil {
		b.WriteString("\n| flag | default | environment variable | meaning |\n|---|---|---|---|\n" + strings.Join(rows, ""))
	}
}

// wrap breaks a paragraph into lines of up to the given number of columns.
func wrap(text string, columns int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		width := len([]rune(word))
		switch {
		case column > 0 && column+1+width > columns:
			b.WriteByte('\n')
			column = 0
		case column > 0:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += width
	}
	return b.String()
}
