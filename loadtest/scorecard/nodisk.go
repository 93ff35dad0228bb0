// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

func spoilt(s *stage) { s.Fatalf("%v", errLinux) }
