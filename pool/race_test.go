// SPDX-License-Identifier: Apache-2.0

//go:build race

package pool_test

const raceEnabled = true
