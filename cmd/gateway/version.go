// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
)

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(p process) error {
	_, err := fmt.Fprintln(p.stdout, "gateway", version())
	return err
}

// version returns the version of this binary, the commit and the Go version.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	return formatVersion(info)
}

// buildCommit is the commit of a binary that is built without version control information. The
// Dockerfile sets it with -ldflags.
var buildCommit string

// formatVersion formats build information. The commit is unknown if the binary was built without
// version control information, for example with go install or go run.
func formatVersion(info *debug.BuildInfo) string {
	commit, suffix := cmp.Or(buildCommit, "unknown"), ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			suffix = ", modified"
		}
	}
	return fmt.Sprintf("%s (commit %s%s, %s)", info.Main.Version, commit, suffix, info.GoVersion)
}
