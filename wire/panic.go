// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// PanicError is in the chain of the error that Run returns after a panic in this package or in a
// Handler. Its text is that of a runtime error, or else the type of the panic's value, because the
// value can contain secrets.
type PanicError struct {
	Stack string // of the goroutine that panicked
	text  string
}

// Error returns "panicked: " and the text.
func (e *PanicError) Error() string { return "panicked: " + e.text }

// endOnPanic is deferred by the goroutines of the connection, which must not hold its lock then. A
// panic ends the connection but not the process.
func (c *Conn) endOnPanic() {
	p := recover()
	if p == nil {
		return
	}
	e := &PanicError{Stack: string(debug.Stack()), text: fmt.Sprintf("%T", p)}
	if runtimeErr, ok := p.(runtime.Error); ok {
		e.text = runtimeErr.Error()
	}
	c.panicked(&Error{Reason: LostAfterWrite, Err: e})
	_ = c.rawConn.Close() // ends the other goroutines, even if this one should have closed it
	c.deliver()
}

func (c *Conn) panicked(err *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panicErr == nil {
		c.panicErr = err
	}
	if !c.ended {
		c.abortConn(err)
	}
}
