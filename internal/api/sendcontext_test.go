// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
)

// TestSendContextEndsWithClientAndTimeout ends the context of a send in every way, and looks at it with
// Err first or with Done first.
func TestSendContextEndsWithClientAndTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		end          func(disconnect, shutDown, finish func())
		want         error
		attemptsGoOn bool
	}{
		"client disconnects": {end: func(disconnect, _, _ func()) { disconnect() }, want: context.Canceled, attemptsGoOn: true},
		"parent ends":        {end: func(_, shutDown, _ func()) { shutDown() }, want: context.Canceled},
		"send returns":       {end: func(_, _, finish func()) { finish() }, want: context.Canceled},
		"timeout":            {end: func(_, _, _ func()) { time.Sleep(25 * time.Second) }, want: context.DeadlineExceeded},
	} {
		for _, doneFirst := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					request, disconnect := context.WithCancel(t.Context())
					parent, shutDown := context.WithCancel(context.WithoutCancel(t.Context()))
					defer shutDown()
					defer disconnect()
					attempts, cancelAttempts := context.WithTimeout(parent, 25*time.Second)
					ctx := sendContext(request, attempts)
					finish := func() { ctx.cancel(); cancelAttempts() }
					defer finish()
					if doneFirst {
						ctx.Done()
					}
					child, cancel := context.WithCancel(ctx)
					defer cancel()
					if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 25*time.Second || ctx.Err() != nil || push.AttemptContext(ctx).Err() != nil {
						t.Fatalf("deadline %v, %t; %v", deadline, ok, ctx.Err())
					}
					c.end(disconnect, shutDown, finish)
					synctest.Wait()
					if err := ctx.Err(); !errors.Is(err, c.want) {
						t.Errorf("Err: %v", err)
					}
					select {
					case <-ctx.Done():
					default:
						t.Error("Done is open")
					}
					synctest.Wait()
					if child.Err() == nil {
						t.Error("a child of the context goes on")
					}
					if err := push.AttemptContext(ctx).Err(); (err == nil) != c.attemptsGoOn {
						t.Errorf("attempts: %v", err)
					}
				})
			})
		}
	}
}
