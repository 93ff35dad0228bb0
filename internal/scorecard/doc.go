// SPDX-License-Identifier: Apache-2.0

// Package scorecard simulates faults of push services for a gateway under load, and compares the measured
// figures with fixed bounds. It has only tests, one for each row:
//
//	go test ./internal/scorecard -run TestScorecard/S05 -scorecard
//
// It runs the gateway as operators do, with its binary, its configuration and its API.
package scorecard
