// SPDX-License-Identifier: Apache-2.0

//go:build !race

package audience_test

const raceEnabled = false
