// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main_test

const isolatedEnv = "TEST_ISOLATED"

func runIsolated() int { return 1 }
