// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"strings"

	"github.com/sluice-push/sluice/push"
)

const (
	// maxConditionTopics is how many topics a condition may name (Firebase, "Send
	// messages to topics").
	maxConditionTopics = 5
	// Our own bounds, so that no target takes long to read or much to remember.
	maxTopicLen, maxConditionLen = 900, 4096
)

// The grammars of what a message may be sent to.

func isToken(s string) bool { return isName(s, ":_-", 4096) }

func isTopic(s string) bool { return isName(s, "-_.~%", maxTopicLen) }

func isInstallation(s string) bool { return isName(s, "_-", 200) }

// isName reports whether s is made of ASCII letters, digits and the bytes in
// others, and is neither empty nor longer than most.
func isName(s, others string, most int) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= most
}

// targetName returns the member of FCM's message that holds a target of that
// kind, or "".
func targetName(kind push.TargetKind) string {
	switch kind {
	case push.ToToken:
		return "token"
	case push.ToTopic:
		return "topic"
	case push.ToCondition:
		return "condition"
	case push.ToInstallation:
		return "fid"
	}
	return ""
}

// checkTarget wants one target that FCM knows, well formed.
func checkTarget(t *push.Target) error {
	switch kind := t.Kind(); {
	case targetName(kind) == "":
		return invalid("token", invalidTarget, "given, or instead of it topic, condition or installation, and no other target, for FCM")
	case kind == push.ToToken && !isToken(t.Token):
		return invalid("token", invalidTarget, "1 to 4096 letters, digits, colons, underscores and hyphens")
	case kind == push.ToTopic && !isTopic(t.Topic):
		return invalid("topic", invalidTarget, "letters, digits and - _ . ~ %, without /topics/, at most 900")
	case kind == push.ToCondition && !isCondition(t.Condition):
		return invalid("condition", invalidTarget, "made of at most 5 terms 'name' in topics, with && || ! and parentheses")
	case kind == push.ToInstallation && !isInstallation(t.Installation):
		return invalid("installation", invalidTarget, "a Firebase installation ID: letters, digits, underscores and hyphens")
	}
	return nil
}

// isCondition reports whether s is
//
//	either = term { ("&&" | "||") term }
//	term   = "!" term | "(" either ")" | "'" topic "'" "in" "topics"
func isCondition(s string) bool {
	if len(s) > maxConditionLen {
		return false
	}
	c := condition{rest: s}
	return c.expression() && c.skip("") && c.rest == "" && c.topics <= maxConditionTopics
}

// condition reads a condition from its left end.
type condition struct {
	rest   string
	topics int
}

func (c *condition) expression() bool {
	if !c.term() {
		return false
	}
	for c.skip("&&") || c.skip("||") {
		if !c.term() {
			return false
		}
	}
	return true
}

func (c *condition) term() bool {
	switch {
	case c.skip("!"):
		return c.term()
	case c.skip("("):
		return c.expression() && c.skip(")")
	}
	return c.topic()
}

func (c *condition) topic() bool {
	if !c.skip("'") {
		return false
	}
	name, rest, closed := strings.Cut(c.rest, "'")
	if !closed || !isTopic(name) {
		return false
	}
	c.rest = rest
	c.topics++
	return c.skip("in") && c.skip("topics")
}

// skip takes a word from the left end, and the space before it.
func (c *condition) skip(word string) bool {
	rest, found := strings.CutPrefix(strings.TrimLeft(c.rest, " \t"), word)
	if found {
		c.rest = rest
	}
	return found
}
