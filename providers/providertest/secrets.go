// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// logBuffer keeps what is written to it.
type logBuffer struct {
	mu  sync.Mutex
	all strings.Builder
}

func (s *logBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *logBuffer) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// secrets are what must not show: what the suite names, and whom the notification is for and what it says.
func (s Suite) secrets() (all []string) {
	n := s.Notification()
	all = append(all, s.Secrets...)
	all = append(all, n.Title, n.Body, n.Key())
	if n.Subscription != nil {
		all = append(all, n.Subscription.Keys.Auth, n.Subscription.Keys.P256dh)
	}
	return all
}

// checkNoSecret fails the test if text holds a secret. It does not print the secret: a test's output is an output, too.
func (s Suite) checkNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for i, secret := range s.secrets() {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("%s holds secret %d", where, i)
		}
	}
}

// authorizationOf returns what a request proves itself by.
func authorizationOf(r *wire.Request) string {
	return (&wire.Response{Header: r.Header}).Get("authorization")
}

// invalidNotifications are notifications that no provider takes, by what is wrong with them.
func (s Suite) invalidNotifications() map[string]*push.Notification {
	change := func(spoil func(*push.Notification)) *push.Notification {
		n := s.Notification()
		spoil(n)
		return n
	}
	return map[string]*push.Notification{
		"a title that is no text": change(func(n *push.Notification) { n.Title += "\xff" }),
		"data that are no text":   change(func(n *push.Notification) { n.Data = map[string]string{"k": n.Title + "\xff"} }),
		"a negative badge":        change(func(n *push.Notification) { n.Badge = new(int); *n.Badge = -1 }),
		"an image by http":        change(func(n *push.Notification) { n.Image = "http://example.com/" + n.Title }),
		"nothing at all":          {ID: s.Notification().ID, Target: s.Notification().Target},
	}
}
