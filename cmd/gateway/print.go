// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime/debug"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/rest"
)

type key struct{}

// Help shows an example.
func (key) Help() string {
	return `Example:

    gateway key

Give the key to the caller, who sends it as "Authorization: Bearer KEY". Put the hash into the configuration, under apps.NAME.keys. The key itself is kept nowhere.`
}

// Run prints a new key and its hash.
func (key) Run(p process) error {
	key, hash := rest.NewKey()
	_, err := fmt.Fprintf(p.stdout, "key   %s\nhash  %s\n", key, hash)
	return err
}

type openAPI struct{}

// Help shows an example.
func (openAPI) Help() string {
	return "Example:\n\n    gateway openapi > openapi.yaml\n\nA running gateway serves the same text at /openapi.yaml."
}

// Run prints the contract.
func (openAPI) Run(p process) error {
	_, err := p.stdout.Write(rest.OpenAPI())
	return err
}

type schema struct {
	Markdown bool `help:"Print a table of all keys in Markdown instead."`
}

// Help shows an example.
func (schema) Help() string {
	return "Example:\n\n    gateway schema > gateway.schema.json\n\nEditors complete and check a configuration whose first line is " +
		"\"# yaml-language-server: $schema=gateway.schema.json\"."
}

// Run prints the schema.
func (s schema) Run(p process) error {
	text := config.Schema()
	if s.Markdown {
		text = []byte(config.Reference())
	}
	_, err := p.stdout.Write(text)
	return err
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(p process) error {
	_, err := fmt.Fprintln(p.stdout, "gateway", version())
	return err
}

// version is what Go's own build stamped into the binary: a tag, or a commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return fmt.Sprintf("%s (%s)", info.Main.Version, info.GoVersion)
}
