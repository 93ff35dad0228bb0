// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// chartVersion matches the two versions in Chart.yaml.
var chartVersion = regexp.MustCompile(`(?m)^(version|appVersion): .*$`)

// writeChart writes the Helm chart with the version of the release. Links to files outside of the
// chart become files.
func (r *release) writeChart() error {
	root := r.file("deploy/helm/sluice")
	var entries []entry
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		if name == "Chart.yaml" {
			text = chartVersion.ReplaceAll(text, []byte(`$1: "`+r.version+`"`))
		}
		entries = append(entries, entry{name: "sluice/" + filepath.ToSlash(name), mode: 0o644, text: text})
		return err
	})
	if err != nil {
		return err
	}
	return r.writeTarGzip("sluice-"+r.version+".tgz", entries)
}
