// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// writeSBOM writes the bill of materials of a binary: the modules in it, with their checksums and
// licences, as CycloneDX.
func (r *release) writeSBOM(t target) error {
	generator, err := bin.NewGenerator(r.binary(t), bin.WithIncludeStdlib(true), bin.WithVersionOverride("v"+r.version), bin.WithLogger(zerolog.Nop()))
	if err != nil {
		return err
	}
	bom, err := generator.Generate()
	if err != nil {
		return err
	}
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/sluice-push/sluice/"+r.commit+"/"+r.version+"/"+t.String())).URN()
	bom.Metadata.Timestamp = r.time.Format(time.RFC3339)
	if err := r.addLicenses(bom); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(r.out, fmt.Sprintf("sluice_%s_%s.cdx.json", r.version, t)))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := cdx.NewBOMEncoder(file, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return err
	}
	return file.Close()
}

// notice matches the head of a package in THIRD_PARTY_NOTICES.md: path, version and licence.
var notice = regexp.MustCompile(`(?m)^## (\S+) (\S+)\n\n(\S+)\n`)

// addLicenses adds the licences that THIRD_PARTY_NOTICES.md has for the packages of each module.
func (r *release) addLicenses(bom *cdx.BOM) error {
	text, err := os.ReadFile(r.file("THIRD_PARTY_NOTICES.md"))
	if err != nil {
		return err
	}
	bom.Metadata.Component.Licenses = spdx("Apache-2.0")
	for i := range *bom.Components {
		component := &(*bom.Components)[i]
		if component.Name == "std" {
			component.Licenses = spdx("BSD-3-Clause")
		}
		for _, m := range notice.FindAllStringSubmatch(string(text), -1) {
			if strings.HasPrefix(m[1]+"/", component.Name+"/") && m[2] == component.Version && component.Licenses == nil {
				component.Licenses = spdx(m[3])
			}
		}
	}
	return nil
}

func spdx(id string) *cdx.Licenses { return &cdx.Licenses{{License: &cdx.License{ID: id}}} }
