// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime/debug"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/providers/webpush"
)

type keyCmd struct {
	API   apiKeyCmd   `cmd:"" name:"api" default:"1" help:"Make an API key, and the hash of it that goes into the configuration."`
	VAPID vapidKeyCmd `cmd:"" name:"vapid" help:"Make a key pair for Web Push."`
}

// Help shows an example.
func (keyCmd) Help() string {
	return "Example:\n\n    gateway key\n    gateway key vapid > vapid.pem"
}

type vapidKeyCmd struct{}

// Help shows an example.
func (vapidKeyCmd) Help() string {
	return `Example:

    (umask 077 && gateway key vapid > vapid.pem)

The first line holds the public key, which pages give to pushManager.subscribe as applicationServerKey. The rest is the private key in PEM. Put the file's name into the configuration, as apps.NAME.webpush.vapid_key_file: the line above the PEM block does no harm there.`
}

// Run prints a new key pair.
func (vapidKeyCmd) Run(p process) error {
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

type apiKeyCmd struct{}

// Help shows an example.
func (apiKeyCmd) Help() string {
	return `Example:

    gateway key

Give the key to the caller, who sends it as "Authorization: Bearer KEY". Put the hash into the configuration, under apps.NAME.keys. The key itself is kept nowhere.`
}

// Run prints a new key and its hash.
func (apiKeyCmd) Run(p process) error {
	key, hash := api.NewKey()
	_, err := fmt.Fprintf(p.stdout, "key   %s\nhash  %s\n", key, hash)
	return err
}

type openAPICmd struct{}

// Help shows an example.
func (openAPICmd) Help() string {
	return "Example:\n\n    gateway openapi > openapi.yaml\n\nA running gateway serves the same text at /openapi.yaml."
}

// Run prints the contract.
func (openAPICmd) Run(p process) error {
	_, err := p.stdout.Write(api.OpenAPI())
	return err
}

type schemaCmd struct {
	Markdown bool `help:"Print a table of all keys in Markdown instead."`
}

// Help shows an example.
func (schemaCmd) Help() string {
	return "Example:\n\n    gateway schema > gateway.schema.json\n\nEditors complete and check a configuration whose first line is " +
		"\"# yaml-language-server: $schema=gateway.schema.json\"."
}

// Run prints the schema.
func (s schemaCmd) Run(p process) error {
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
