// SPDX-License-Identifier: Apache-2.0

//go:build race

package quota_test

const raceEnabled = true
