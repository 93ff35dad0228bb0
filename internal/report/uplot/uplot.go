// SPDX-License-Identifier: Apache-2.0

// Package uplot holds the library that draws charts in a browser, for the pages of this module:
// https://github.com/leeoniya/uPlot, copied without changes.
package uplot

import _ "embed"

//go:embed uPlot.iife.min.js
var library string

//go:embed LICENSE
var license string

// Style is the style sheet of the library.
//
//go:embed uPlot.min.css
var Style string

// Script returns the code of the library with its licence, which must be in every copy.
func Script() string { return "/*\n" + license + "\n*/\n" + library }
