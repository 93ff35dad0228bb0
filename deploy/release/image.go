// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is the user and group of the image. Kubernetes can check a number, but not a name.
const user = 65532

// writeImage writes an image for all architectures of Linux as an OCI layout in a tar file. It has no
// base: it contains the binary, root certificates, and folders for the configuration and the queue.
func (r *release) writeImage() error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, t := range r.targets {
		if t.os != "linux" {
			continue
		}
		image, err := r.image(t)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: t.os, Architecture: t.arch}},
		})
	}
	dir := filepath.Join(r.binaries, "image")
	layoutPath, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := layoutPath.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.version,
	})); err != nil {
		return err
	}
	return r.writeLayout(dir)
}

// writeLayout writes the files of an OCI layout into a tar file.
func (r *release) writeLayout(dir string) error {
	var entries []entry
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if d.IsDir() {
			entries = append(entries, entry{name: filepath.ToSlash(name) + "/", mode: 0o755})
		} else {
			entries = append(entries, entry{name: filepath.ToSlash(name), mode: 0o644, source: file})
		}
		return err
	})
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(r.out, "sluice_"+r.version+"_image.tar"))
	if err != nil {
		return err
	}
	return errors.Join(writeTar(file, r.time, entries), file.Close())
}

// image returns the image of one architecture.
func (r *release) image(t target) (v1.Image, error) {
	base, err := r.baseLayer()
	if err != nil {
		return nil, err
	}
	program, err := r.layer([]entry{
		{name: "gateway", mode: 0o755, source: r.binary(t)},
		{name: "usr/share/doc/sluice/", mode: 0o755},
		{name: "usr/share/doc/sluice/LICENSE", mode: 0o644, source: r.file("LICENSE")},
		{name: "usr/share/doc/sluice/THIRD_PARTY_NOTICES.md", mode: 0o644, source: r.file("THIRD_PARTY_NOTICES.md")},
	})
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: r.time}
	image, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: base, History: v1.History{Created: created, Comment: "root certificates, user and folders"}},
		mutate.Addendum{Layer: program, History: v1.History{Created: created, Comment: "gateway " + r.version}},
	)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = t.os, t.arch, created
	config.Config = v1.Config{
		User: "65532:65532", Entrypoint: []string{"/gateway"}, WorkingDir: "/var/lib/sluice",
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":         "Sluice",
			"org.opencontainers.image.description":   "Push-notification gateway for APNs, FCM and Web Push",
			"org.opencontainers.image.version":       r.version,
			"org.opencontainers.image.revision":      r.commit,
			"org.opencontainers.image.created":       r.time.Format(time.RFC3339),
			"org.opencontainers.image.source":        "https://github.com/sluice-push/sluice",
			"org.opencontainers.image.documentation": "https://github.com/sluice-push/sluice/blob/main/docs/install.md",
			"org.opencontainers.image.licenses":      "Apache-2.0",
		},
	}
	return mutate.ConfigFile(image, config)
}

// baseLayer returns the layer below the program.
func (r *release) baseLayer() (v1.Layer, error) {
	roots, err := rootCertificates()
	if err != nil {
		return nil, err
	}
	return r.layer([]entry{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, text: []byte("root:x:0:\nsluice:x:65532:\n")},
		{name: "etc/passwd", mode: 0o644, text: []byte("root:x:0:0:root:/:/sbin/nologin\nsluice:x:65532:65532:Sluice:/var/lib/sluice:/sbin/nologin\n")},
		{name: "etc/sluice/", mode: 0o755},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, text: roots},
		// A new volume at this path has its owner.
		{name: "var/lib/sluice/", mode: 0o700, owner: user},
	})
}

// rootCertificates returns Mozilla's list of root certificates in PEM. A root that Mozilla trusts only
// under a condition, such as an issue before some day, is left out: PEM can not express it.
func rootCertificates() ([]byte, error) {
	var names []string
	blocks := map[string][]byte{}
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, err
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		name := strings.TrimSpace(certificate.Subject.String()) + " " + certificate.SerialNumber.String()
		names = append(names, name)
		blocks[name] = append([]byte("# "+name+"\n"), block...)
	}
	slices.Sort(names)
	var text bytes.Buffer
	for _, name := range names {
		text.Write(blocks[name])
	}
	return text.Bytes(), nil
}

// layer returns a layer with these entries.
func (r *release) layer(entries []entry) (v1.Layer, error) {
	var text bytes.Buffer
	if err := writeTar(&text, r.time, entries); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}
