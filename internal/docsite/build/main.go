// SPDX-License-Identifier: Apache-2.0

// Command build writes the documentation as a static site to the folder in its argument.
package main

import (
	"log"
	"os"

	"github.com/sluice-push/sluice/docs"
	"github.com/sluice-push/sluice/internal/docsite"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: build DIR")
	}
	if err := docsite.Write(docs.FS, os.Args[1]); err != nil {
		log.Fatal(err)
	}
}
