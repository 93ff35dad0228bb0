// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime/debug"
	"testing"
)

func TestFormatVersion(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v0.3.0"}}
	if got, want := formatVersion(info), "v0.3.0 (commit unknown, go1.26.8)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "7f7eb02"}, {Key: "vcs.modified", Value: "true"}}
	if got, want := formatVersion(info), "v0.3.0 (commit 7f7eb02, modified, go1.26.8)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
