// SPDX-License-Identifier: Apache-2.0

// Package testwait bounds the waits of tests, so that a test that would hang fails and says what
// it waited for. Only tests import it.
package testwait

import "time"

// Bound is how long For and Until wait. It is far above what a busy machine needs, and below the
// timeout of go test. In a testing/synctest bubble it is fake time.
const Bound = 2 * time.Minute

// TB is the part of testing.TB that the package needs.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// For receives from ch and returns the value, or the zero value if ch is closed. If nothing arrives
// within Bound, it fails the test with the name of what it waited for. Call it from the goroutine of
// the test.
func For[T any](t TB, ch <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(Bound)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", Bound, what)
		panic("unreachable")
	}
}

// Call calls f, which may block, such as the Wait of a group, and returns when f returns. If f does
// not return within Bound, Call fails the test with the name of what it waited for.
func Call(t TB, f func(), what string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	For(t, done, what)
}

// Until calls condition every millisecond until it is true. If it stays false for Bound, Until fails
// the test with the name of what it waited for.
func Until(t TB, condition func() bool, what string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for start := time.Now(); !condition(); <-ticker.C {
		if time.Since(start) > Bound {
			t.Fatalf("waited %v until %s", Bound, what)
		}
	}
}
