// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers the format
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers the format
)

// writePackages writes the packages for Debian and Red Hat.
func (r *release) writePackages(t target) error {
	if t.os != "linux" {
		return nil
	}
	for _, format := range []string{"deb", "rpm"} {
		if err := r.writePackage(t, format); err != nil {
			return fmt.Errorf("%s: %w", format, err)
		}
	}
	return nil
}

func (r *release) writePackage(t target, format string) error {
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	info := nfpm.WithDefaults(r.packageInfo(t, format))
	name := filepath.Join(r.out, packager.ConventionalFileName(info))
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := packager.Package(info, file); err != nil {
		return err
	}
	return file.Close()
}

// packageInfo describes the package. The scripts create the user sluice, and neither enable nor start
// the service: the configuration of a new installation has no app.
func (r *release) packageInfo(t target, format string) *nfpm.Info {
	script := func(name string) string { return r.file("deploy/packages/" + name) }
	info := &nfpm.Info{
		Name: "sluice", Arch: t.arch, Platform: "linux", Version: r.version, MTime: r.time,
		Section: "net", Priority: "optional", License: "Apache-2.0", Vendor: "Sluice",
		Maintainer: "Sluice maintainers <maintainers@sluice-push.example>", Homepage: "https://github.com/sluice-push/sluice",
		Description: "Push-notification gateway for APNs, FCM and Web Push\n" +
			"Delivers notifications with retries, quotas and a durable queue, and reports what happened to each.",
		DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			Contents: r.packageContents(t),
			Depends:  []string{"ca-certificates"},
			Scripts: nfpm.Scripts{
				PreInstall: script("preinstall.sh"), PostInstall: script("postinstall.sh"),
				PreRemove: script("preremove.sh"), PostRemove: script("postremove.sh"),
			},
			RPM: nfpm.RPM{BuildHost: "localhost", Group: "System Environment/Daemons"},
			Deb: nfpm.Deb{Predepends: []string{"passwd"}},
		},
	}
	if format == "rpm" {
		info.Depends = append(info.Depends, "shadow-utils")
	}
	return info
}

func (r *release) packageContents(t target) (contents files.Contents) {
	add := func(kind, source, destination, group string, mode fs.FileMode) {
		contents = append(contents, &files.Content{
			Source: source, Destination: destination, Type: kind,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: group, Mode: mode, MTime: r.time},
		})
	}
	const doc = "/usr/share/doc/sluice/"
	add("", r.binary(t), "/usr/bin/gateway", "root", 0o755)
	add("", r.file("deploy/systemd/sluice.service"), "/usr/lib/systemd/system/sluice.service", "root", 0o644)
	add(files.TypeDir, "", "/etc/sluice", "sluice", 0o750)
	add(files.TypeConfigNoReplace, r.file("deploy/packages/gateway.yaml"), "/etc/sluice/gateway.yaml", "sluice", 0o640)
	add("", r.file("LICENSE"), doc+"copyright", "root", 0o644)
	for _, name := range []string{
		"THIRD_PARTY_NOTICES.md", "CHANGELOG.md", "examples/gateway.yaml", "deploy/prometheus/rules.yaml",
		"deploy/grafana/overview.json", "deploy/grafana/provider.json",
	} {
		add("", r.file(name), doc+path.Base(name), "root", 0o644)
	}
	return contents
}
