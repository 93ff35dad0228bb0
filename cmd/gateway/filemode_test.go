// SPDX-License-Identifier: Apache-2.0

//go:build unix

package main_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFilesAreForTheirOwnerOnly runs commands whose directories are open to everyone, with a umask
// that takes away nothing. It sends a notification, so that there are files of every kind.
func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	open := func(name string) string {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	run := func(args ...string) *gatewayProcess {
		return startProcess(t, nil, "sh", append([]string{"-c", `umask 0 && exec "$0" "$@"`, gatewayBinary}, args...)...)
	}
	keys, queue, index := open("keys"), open("queue"), open("index")
	ready := filepath.Join(keys, "mock.json")
	providers := run("mock", "--ready-file", ready, "--keys", keys)
	key, hash := newKey(t)
	config := strings.Replace(readFile(t, mockConfig(t, providers.readyFile(ready))), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", strings.TrimPrefix(hash, "sha256:"), 1)
	config += fmt.Sprintf("queue: {dir: %q}\nhistory: {dir: %q}\n", queue, index)
	p := run("serve", "-c", writeTemp(t, "gateway.yaml", config))
	env := []string{"GATEWAY_URL=http://" + p.servingAt(), "SLUICE_KEY=" + key}
	for _, sendAt := range []string{"2020-01-01T00:00:00Z", "+1h"} {
		if code, stdout, stderr := runGateway(t, env, "send", "--app", "demo", "--platform", "apns", "--token", deviceToken, "--title", "Hi", "--send-at", sendAt); code != 0 {
			t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
		}
	}
	files := 0
	check := func(when string) {
		for _, dir := range []string{keys, queue, index} {
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || path == dir {
					return err
				}
				info, err := entry.Info()
				if err != nil {
					return nil // the running gateway has removed it
				}
				if info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s: %s has mode %v", when, path, info.Mode())
				}
				files++
				return nil
			})
			if err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
	}
	check("running")
	p.terminate()
	check("stopped")
	if files < 40 {
		t.Errorf("only %d files", files)
	}
}
