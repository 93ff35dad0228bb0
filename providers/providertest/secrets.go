// SPDX-License-Identifier: Apache-2.0

package providertest

import (
	"strings"
	"sync"
	"testing"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// logBuffer is a buffer that is safe for concurrent use.
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

// secrets returns the suite's secrets, and the target and texts of the notification.
func (s Suite) secrets() (all []string) {
	n := s.Notification()
	all = append(all, s.Secrets...)
	all = append(all, n.Title, n.Body, n.Key())
	if n.Subscription != nil {
		all = append(all, n.Subscription.Keys.Auth, n.Subscription.Keys.P256dh)
	}
	return all
}

// checkNoSecret fails the test if text contains a secret. It does not print the secret, because
// test output can be published.
func (s Suite) checkNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for i, secret := range s.secrets() {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("%s contains secret %d", where, i)
		}
	}
}

// authorizationOf returns the authorization header of a request.
func authorizationOf(r *wire.Request) string {
	return (&wire.Response{Header: r.Header}).Get("authorization")
}

// invalidNotifications returns notifications that every provider refuses, by what is wrong with
// them.
func (s Suite) invalidNotifications() map[string]*push.Notification {
	change := func(edit func(*push.Notification)) *push.Notification {
		n := s.Notification()
		edit(n)
		return n
	}
	return map[string]*push.Notification{
		"a title that is not UTF-8": change(func(n *push.Notification) { n.Title += "\xff" }),
		"data that are not UTF-8":   change(func(n *push.Notification) { n.Data = map[string]string{"k": n.Title + "\xff"} }),
		"a negative badge":          change(func(n *push.Notification) { n.Badge = new(int); *n.Badge = -1 }),
		"an image by http":          change(func(n *push.Notification) { n.Image = "http://example.com/" + n.Title }),
		"an empty notification":     {ID: s.Notification().ID, Target: s.Notification().Target},
	}
}
