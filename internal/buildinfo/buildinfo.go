// SPDX-License-Identifier: Apache-2.0

// Package buildinfo says from which version of the sources the program was built.
package buildinfo

import (
	"cmp"
	"runtime/debug"
)

// version and commit are set with -ldflags where the Go command does not know them: by make release
// and by the Dockerfile, which build without version control information.
var version, commit string

// Info describes a build.
type Info struct {
	Version   string // such as v1.2.0, or (devel)
	Commit    string // unknown with go install and go run
	Modified  bool   // the work tree had changes that were not committed
	GoVersion string
}

// Read returns the description of this program.
func Read() Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = new(debug.BuildInfo)
	}
	return fromBuild(build)
}

func fromBuild(build *debug.BuildInfo) Info {
	info := Info{
		Version: cmp.Or(version, build.Main.Version, "unknown"), Commit: cmp.Or(commit, "unknown"),
		GoVersion: cmp.Or(build.GoVersion, "unknown"),
	}
	for _, s := range build.Settings {
		switch {
		case s.Key == "vcs.revision":
			info.Commit = s.Value
		case s.Key == "vcs.modified":
			info.Modified = s.Value == "true"
		}
	}
	return info
}
