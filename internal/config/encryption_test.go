// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/config"
)

func TestEncryptionKeys(t *testing.T) {
	if got := parseErrors(t, shopConfig+"queue: {encryption: {key_files: [a.key]}}\n"); !strings.Contains(got, "queue.encryption.key_files: needs a queue, whose records it encrypts: set queue.dir or queue.nats.url") {
		t.Error(got)
	}
	if got := parseErrors(t, shopConfig+"queue: {dir: q, encryption: {enabled: maybe}}\n"); !strings.Contains(got, `queue.encryption.enabled: "maybe": must be true or false`) {
		t.Error(got)
	}
	from := parse(t, shopConfig+"queue: {dir: q, encryption: {key_files: [a.key, /b.key]}}\n")
	if diff := cmp.Diff(config.Encryption{KeyFiles: []config.File{"etc/a.key", "/b.key"}, Enabled: true}, from.Queue.Encryption); diff != "" {
		t.Error(diff)
	}
	to := parse(t, shopConfig+"queue: {dir: r, encryption: {key_files: [/c.key], enabled: false}}\n")
	want := []config.Change{
		{Key: "queue.dir", From: "etc/q", To: "etc/r", Restart: true},
		{Key: "queue.encryption.enabled", From: "true", To: ""},
		{Key: "queue.encryption.key_files", From: "[etc/a.key /b.key]", To: "[/c.key]"},
	}
	if diff := cmp.Diff(want, config.Diff(from, to)); diff != "" {
		t.Error(diff)
	}
}
