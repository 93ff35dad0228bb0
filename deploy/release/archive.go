// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is a file in an archive, or a folder if source and text are empty.
type entry struct {
	name   string
	mode   fs.FileMode
	owner  int // user and group
	source string
	text   []byte
}

// writeTar writes entries in their order, all with the same time.
func writeTar(w io.Writer, modified time.Time, entries []entry) error {
	t := tar.NewWriter(w)
	for _, e := range entries {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: e.name, Mode: int64(e.mode.Perm()), Uid: e.owner, Gid: e.owner, ModTime: modified, Format: tar.FormatPAX,
		}
		content := e.text
		if e.source != "" {
			var err error
			if content, err = os.ReadFile(e.source); err != nil {
				return err
			}
		}
		if strings.HasSuffix(e.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		header.Size = int64(len(content))
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(content); err != nil {
			return err
		}
	}
	return t.Close()
}

// writeTarGzip writes a compressed archive to a file of the release.
func (r *release) writeTarGzip(name string, entries []entry) error {
	var buffer bytes.Buffer
	z, err := gzip.NewWriterLevel(&buffer, gzip.BestCompression)
	if err != nil {
		return err
	}
	if err := writeTar(z, r.time, entries); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, name), buffer.Bytes(), 0o644)
}

// writeArchive writes the archive of a target: the binary, its licences, and what an installation
// needs besides.
func (r *release) writeArchive(t target) error {
	folder := fmt.Sprintf("sluice_%s_%s", r.version, t)
	entries := []entry{{name: folder + "/", mode: 0o755}, {name: folder + "/gateway", mode: 0o755, source: r.binary(t)}}
	sources := []string{"LICENSE", "THIRD_PARTY_NOTICES.md", "README.md", "CHANGELOG.md", "examples/gateway.yaml"}
	if t.os == "linux" {
		sources = append(sources, "deploy/systemd/sluice.service")
	}
	for _, source := range sources {
		entries = append(entries, entry{name: folder + "/" + path.Base(source), mode: 0o644, source: r.file(source)})
	}
	return r.writeTarGzip(folder+".tar.gz", entries)
}

// writeChecksums writes SHA256SUMS, which sha256sum -c reads.
func (r *release) writeChecksums() error {
	files, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var lines []string
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(r.out, file.Name()))
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%x  %s\n", sha256.Sum256(content), file.Name()))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(strings.Join(lines, "")), 0o644)
}
