// SPDX-License-Identifier: Apache-2.0

package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestInfoOfBuild(t *testing.T) {
	build := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v0.3.0"}}
	if got, want := fromBuild(build), (Info{Version: "v0.3.0", Commit: "unknown", GoVersion: "go1.26.8"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	build.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "7f7eb02"}, {Key: "vcs.modified", Value: "true"}}
	if got, want := fromBuild(build), (Info{Version: "v0.3.0", Commit: "7f7eb02", Modified: true, GoVersion: "go1.26.8"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := fromBuild(new(debug.BuildInfo)), (Info{Version: "unknown", Commit: "unknown", GoVersion: "unknown"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLinkedVersionAndCommit(t *testing.T) {
	defer func() { version, commit = "", "" }()
	version, commit = "v1.2.0", "7f7eb02"
	build := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "(devel)"}}
	if got, want := fromBuild(build), (Info{Version: "v1.2.0", Commit: "7f7eb02", GoVersion: "go1.26.8"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
