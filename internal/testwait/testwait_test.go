// SPDX-License-Identifier: Apache-2.0

package testwait_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/sluice-push/sluice/internal/testwait"
)

// recorder keeps the message of Fatalf and ends its goroutine, as a test does.
type recorder struct{ message string }

func (*recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestWaitFailsAfterItsBound(t *testing.T) {
	for want, wait := range map[string]func(testwait.TB){
		"waited 2m0s for the server": func(t testwait.TB) { testwait.For(t, make(chan int), "the server") },
		"waited 2m0s for the end": func(t testwait.TB) {
			ended := make(chan struct{})
			defer close(ended)
			testwait.Call(t, func() { <-ended }, "the end")
		},
		"waited 2m0s until the server is ready": func(t testwait.TB) { testwait.Until(t, func() bool { return false }, "the server is ready") },
	} {
		synctest.Test(t, func(t *testing.T) {
			r, done := &recorder{}, make(chan struct{})
			go func() {
				defer close(done)
				wait(r)
			}()
			<-done
			if r.message != want {
				t.Errorf("the message is %q, want %q", r.message, want)
			}
		})
	}
}

func TestCallReturnsWhenTheFunctionDoes(t *testing.T) {
	called := false
	testwait.Call(t, func() { called = true }, "the end")
	if !called {
		t.Error("the function was not called")
	}
}

func TestForReturnsWhatItReceives(t *testing.T) {
	ch := make(chan int, 1)
	ch <- 7
	if got := testwait.For(t, ch, "a number"); got != 7 {
		t.Errorf("got %d", got)
	}
	close(ch)
	if got := testwait.For(t, ch, "the close"); got != 0 {
		t.Errorf("got %d", got)
	}
}
