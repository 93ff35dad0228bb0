// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/providers/webpush"
)

type keyCmd struct {
	API   apiKeyCmd   `cmd:"" name:"api" default:"1" help:"Create an API key and its hash for the configuration."`
	VAPID vapidKeyCmd `cmd:"" name:"vapid" help:"Create a key pair for Web Push."`
}

// Help returns the description and examples.
func (keyCmd) Help() string {
	return "Example:\n\n    gateway key\n    gateway key vapid > vapid.pem"
}

type vapidKeyCmd struct{}

// Help returns the description and examples.
func (vapidKeyCmd) Help() string {
	return `Example:

    (umask 077 && gateway key vapid > vapid.pem)

The first line holds the public key. Web pages pass it to pushManager.subscribe as applicationServerKey. The rest is the private key in PEM format. Set apps.NAME.webpush.vapid_key_file to the name of the file; the gateway ignores the first line.`
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

// Help returns the description and examples.
func (apiKeyCmd) Help() string {
	return `Example:

    gateway key

Callers send the key as "Authorization: Bearer KEY". Put the hash into the configuration, under apps.NAME.keys. The key itself is not stored.`
}

// Run prints a new key and its hash.
func (apiKeyCmd) Run(p process) error {
	key, hash := identity.NewKey()
	_, err := fmt.Fprintf(p.stdout, "key   %s\nhash  %s\n", key, hash)
	return err
}

type openAPICmd struct{}

// Help returns the description and examples.
func (openAPICmd) Help() string {
	return "Example:\n\n    gateway openapi > openapi.yaml\n\nA running gateway serves the same document at /openapi.yaml."
}

// Run prints the OpenAPI document.
func (openAPICmd) Run(p process) error {
	_, err := p.stdout.Write(api.OpenAPI())
	return err
}

type schemaCmd struct {
	Markdown bool `help:"Print the reference of all keys in Markdown instead."`
}

// Help returns the description and examples.
func (schemaCmd) Help() string {
	return "Example:\n\n    gateway schema > gateway.schema.json\n\nEditors validate and complete a configuration with the first line " +
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
