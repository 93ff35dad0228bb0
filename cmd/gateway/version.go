// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/sluice-push/sluice/internal/buildinfo"
)

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(p process) error {
	_, err := fmt.Fprintln(p.stdout, "gateway", version())
	return err
}

// version returns the version of this binary, the commit and the Go version.
func version() string { return formatVersion(buildinfo.Read()) }

func formatVersion(info buildinfo.Info) string {
	suffix := ""
	if info.Modified {
		suffix = ", modified"
	}
	return fmt.Sprintf("%s (commit %s%s, %s)", info.Version, info.Commit, suffix, info.GoVersion)
}
