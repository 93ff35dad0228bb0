// SPDX-License-Identifier: Apache-2.0

// Command release writes the files of a release: for each target an archive with the binary and its
// SBOM, packages for Debian and Red Hat, an image for containers, the Helm chart, and their checksums.
// The same commit, version and Go version give the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// allTargets are the systems that a release is for.
const allTargets = "linux/amd64 linux/arm64 darwin/amd64 darwin/arm64"

func main() {
	version := flag.String("version", "", "version in the form 1.2.3, or 1.2.3-rc.1")
	out := flag.String("out", "dist", "folder for the files; it must be empty or missing")
	source := flag.String("source", ".", "the repository")
	targets := flag.String("targets", allTargets, "systems and architectures")
	flag.Parse()
	if err := run(*version, *source, *out, strings.Fields(*targets)); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// target is a system and an architecture in the terms of Go.
type target struct{ os, arch string }

func (t target) String() string { return t.os + "_" + t.arch }

// release is what all files of a release share.
type release struct {
	version string // without v
	commit  string
	time    time.Time // of the commit; every file has it
	source  string    // absolute
	out     string    // absolute
	targets []target
	// binary is the folder of the binaries, each in a folder with the name of its target.
	binaries string
}

func (r *release) binary(t target) string { return filepath.Join(r.binaries, t.String(), "gateway") }

func (r *release) file(name string) string { return filepath.Join(r.source, filepath.FromSlash(name)) }

// run writes a whole release.
func run(version, source, out string, targets []string) error {
	r, err := newRelease(version, source, out, targets)
	if err != nil {
		return err
	}
	if r.binaries, err = os.MkdirTemp("", "sluice-release-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.binaries) }()
	for _, t := range r.targets {
		for _, write := range []func(target) error{r.build, r.writeArchive, r.writeSBOM, r.writePackages} {
			if err := write(t); err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
		}
	}
	return errors.Join(r.writeImage(), r.writeChart(), r.writeChecksums())
}

// semantic matches the versions that all package formats can express.
var semantic = regexp.MustCompile(`^v?((?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9A-Za-z.]+)?)$`)

func newRelease(version, source, out string, targets []string) (*release, error) {
	m := semantic.FindStringSubmatch(version)
	if m == nil {
		return nil, fmt.Errorf("the version is %q, but must have the form 1.2.3 or 1.2.3-rc.1 (make release VERSION=1.2.3)", version)
	}
	r := &release{version: m[1]}
	for _, name := range targets {
		system, arch, found := strings.Cut(name, "/")
		if !found || !strings.Contains(allTargets, name) {
			return nil, fmt.Errorf("the target is %q, but must be one of %s", name, allTargets)
		}
		r.targets = append(r.targets, target{system, arch})
	}
	var err error
	if r.source, err = filepath.Abs(source); err != nil {
		return nil, err
	}
	if r.out, err = filepath.Abs(out); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(r.out); len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty", r.out)
	} else if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return r, errors.Join(r.readCommit(), os.MkdirAll(r.out, 0o755))
}

// readCommit finds the commit of the sources and its time.
func (r *release) readCommit() error {
	line, err := r.git("log", "-1", "--format=%H %ct")
	if err != nil {
		return err
	}
	commit, seconds, _ := strings.Cut(line, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return err
	}
	changes, err := r.git("status", "--porcelain")
	if err != nil {
		return err
	}
	if changes != "" {
		commit += "-dirty"
		fmt.Fprintln(os.Stderr, "release: the work tree has changes that are not committed")
	}
	r.commit, r.time = commit, time.Unix(unix, 0).UTC()
	return nil
}

func (r *release) git(args ...string) (string, error) {
	out, err := exec.Command("git", append([]string{"-C", r.source}, args...)...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}

// build builds the binary of a target.
func (r *release) build(t target) error {
	const info = "github.com/sluice-push/sluice/internal/buildinfo"
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", r.binary(t),
		"-ldflags", fmt.Sprintf("-s -w -X %s.version=v%s -X %s.commit=%s", info, r.version, info, r.commit), "./cmd/gateway")
	cmd.Dir = r.source
	// The environment of whoever builds must not change the binary.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+t.os, "GOARCH="+t.arch, "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=",
		"GOAMD64=v1", "GOARM64=v8.0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
