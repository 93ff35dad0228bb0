// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package scorecard

func diskFaults(s *scenario) { s.Fatalf("%v", errLinux) }

func diskFilledByQueue(s *scenario) { s.Fatalf("%v", errLinux) }
