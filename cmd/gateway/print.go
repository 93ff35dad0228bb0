// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime/debug"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/rest"
)

type key struct {
	API   apiKey   `cmd:"" name:"api" default:"1" help:"Make an API key, and the hash of it that goes into the configuration."`
	VAPID vapidKey `cmd:"" name:"vapid" help:"Make a key pair for Web Push."`
}

// Help shows an example.
func (key) Help() string {
	return "Example:\n\n    gateway key\n    gateway key vapid > vapid.pem"
}

type vapidKey struct{}

// Help shows an example.
func (vapidKey) Help() string {
	return `Example:

    (umask 077 && gateway key vapid > vapid.pem)

The first line holds the public key, which pages give to pushManager.subscribe as applicationServerKey. The rest is the private key in PEM. Put the file's name into the configuration, as apps.NAME.webpush.vapid_key_file: the line above the PEM block does no harm there.`
}

// Run prints a new key pair.
func (vapidKey) Run(p process) error {
	key, err := webpush.NewKey()
	if err != nil {
		return err
	}
	text, err := key.PEM()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "public   %s\n%s", key.Public(), text)
	return err
}

type apiKey struct{}

// Help shows an example.
func (apiKey) Help() string {
	return `Example:

    gateway key

Give the key to the caller, who sends it as "Authorization: Bearer KEY". Put the hash into the configuration, under apps.NAME.keys. The key itself is kept nowhere.`
}

// Run prints a new key and its hash.
func (apiKey) Run(p process) error {
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
