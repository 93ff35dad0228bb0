// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/providers/webpush"
)

type keyCmd struct {
	API   apiKeyCmd   `cmd:"" name:"api" default:"withargs" help:"Create an API key and its hash for the configuration."`
	VAPID vapidKeyCmd `cmd:"" name:"vapid" help:"Create a key pair for Web Push."`

	Encryption encryptionKeyCmd `cmd:"" name:"encryption" help:"Create a key that encrypts the queue and the history."`
}

// Help returns the description and examples.
func (keyCmd) Help() string {
	return "Example:\n\n    gateway key\n    gateway key vapid > vapid.pem\n    gateway key encryption > sluice.key"
}

type encryptionKeyCmd struct{}

// Help returns the description and examples.
func (encryptionKeyCmd) Help() string {
	return `Example:

    (umask 077 && gateway key encryption > sluice.key)

Put the name of the file into queue.encryption.key_files. The first line holds the ID of the key, which GET /v1/status and gateway check show. The second line is the key: 32 random bytes in base64. Keep a copy of the file on another machine. Data that was encrypted with a lost key cannot be read.`
}

// Run prints a new key.
func (encryptionKeyCmd) Run(p process) error {
	_, err := fmt.Fprint(p.stdout, keyring.NewKey().Text())
	return err
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

type apiKeyCmd struct {
	Name    string   `placeholder:"NAME" help:"Name of the key. Also prints its entry for the configuration."`
	Scopes  []string `placeholder:"SCOPE,…" help:"Scopes of the key: send, read, events, channels, broadcasts, approve, admin. The default is send,read."`
	Expires string   `placeholder:"WHEN" help:"When the key expires: a number of days such as 90d, or a date such as 2030-01-31."`
}

// Help returns the description and examples.
func (apiKeyCmd) Help() string {
	return `Example:

    gateway key
    gateway key --name backend --scopes send,read --expires 90d

Callers send the key as "Authorization: Bearer KEY". Put the hash or the entry into the configuration, under apps.NAME.keys, or auth.keys for several apps. The key itself is not stored.`
}

// Run prints a new key and its hash, and with a flag its entry for the configuration.
func (k apiKeyCmd) Run(p process) error {
	expires, err := parseExpiry(k.Expires, time.Now())
	if err != nil {
		return usageError{err}
	}
	if _, err := identity.ParseScopes(k.Scopes); err != nil {
		return usageError{fmt.Errorf("--scopes: %w", err)}
	}
	key, hash := identity.NewKey()
	text := fmt.Sprintf("key   %s\nhash  %s\n", key, hash)
	if k.Name != "" || len(k.Scopes) > 0 || expires != "" {
		text += "\n" + k.entry(hash, expires)
	}
	_, err = fmt.Fprint(p.stdout, text)
	return err
}

// entry returns the key's entry for the configuration.
func (k apiKeyCmd) entry(hash, expires string) string {
	list, scopes := "apps.NAME.keys", cmp.Or(strings.Join(k.Scopes, ", "), "send, read")
	if slices.Contains(k.Scopes, "admin") {
		list = "auth.keys"
	}
	text := fmt.Sprintf("# an item of %s\n- name: %s\n  hash: %s\n  scopes: [%s]\n", list, cmp.Or(k.Name, "NAME"), hash, scopes)
	if expires != "" {
		text += "  expires_at: " + expires + "\n"
	}
	return text
}

var days = regexp.MustCompile(`^([1-9][0-9]{0,4})d$`)

// parseExpiry returns the time of --expires as the configuration has it, or "" for none.
func parseExpiry(text string, now time.Time) (string, error) {
	if count := days.FindStringSubmatch(text); count != nil {
		n, _ := strconv.Atoi(count[1])
		return now.UTC().AddDate(0, 0, n).Format("2006-01-02T15:04:05Z"), nil
	}
	var at config.Time
	if text == "" {
		return "", nil
	}
	if err := at.UnmarshalText([]byte(text)); err != nil || !at.After(now) {
		return "", fmt.Errorf("--expires: %q must be a number of days such as 90d, or a date or time in the future such as 2030-01-31", text)
	}
	return text, nil
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
