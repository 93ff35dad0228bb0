// SPDX-License-Identifier: Apache-2.0

//go:build race

package gateway_test

const raceEnabled = true
