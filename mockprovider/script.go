// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"context"
	"time"

	"github.com/sluice-push/sluice/mockprovider/script"
)

// SetScript replaces the script. When it returns, all listeners and open connections obey the new one.
func (m *Mock) SetScript(s Script) error {
	if err := m.injector.SetScript(s); err != nil {
		return err
	}
	m.apply()
	select {
	case m.scriptSet <- struct{}{}:
	default:
	}
	return nil
}

// Script returns the current script.
func (m *Mock) Script() Script { return m.injector.Script() }

// runScript applies the script to listeners and open connections whenever one of its faults begins or
// ends. It ends when ctx does.
func (m *Mock) runScript(ctx context.Context) error {
	for {
		program := m.apply()
		var change <-chan time.Time
		if at, ok := program.NextChange(); ok {
			change = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.scriptSet:
		case <-change:
		}
	}
}

// apply applies the current program to listeners and open connections, and returns it.
func (m *Mock) apply() *script.Program {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	program := m.injector.Program()
	begun := program.Begun()
	for _, service := range []string{APNs, APNsManage, FCM, OAuth, WebPush} {
		for _, e := range m.services[service] {
			e.refuse(program.Refuses(&e.script))
			for _, c := range e.openConns() {
				program.Apply(c.script, begun)
			}
		}
	}
	return program
}

// applyTo applies the current program to a new connection. Faults that act once have no effect on it.
func (m *Mock) applyTo(c *conn) {
	m.applyMu.Lock()
	defer m.applyMu.Unlock()
	m.injector.Program().Apply(c.script, nil)
}
