// SPDX-License-Identifier: Apache-2.0

//go:build race

package audit_test

const raceEnabled = true
