// SPDX-License-Identifier: Apache-2.0

//go:build !race

package broadcast_test

const raceEnabled = false
