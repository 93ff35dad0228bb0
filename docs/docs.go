// SPDX-License-Identifier: Apache-2.0

// Package docs contains the documentation for users and contributors, for the help in the console.
package docs

import "embed"

// FS has the pages in Markdown, and their pictures. README.md is the table of contents.
//
//go:embed *.md *.svg *.png decisions reference runbooks
var FS embed.FS
