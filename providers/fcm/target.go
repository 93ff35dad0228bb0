// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"strings"

	"github.com/sluice-push/sluice/push"
)

const (
	// maxConditionTopics is the maximum number of topics in a condition (Firebase, "Send messages
	// to topics").
	maxConditionTopics = 5
	// Limits of this package, which bound the time to parse a target and the memory to store it.
	maxTopicLen, maxConditionLen = 900, 4096
)

// The syntax of the targets.

func isToken(s string) bool { return isName(s, ":_-", 4096) }

func isTopic(s string) bool { return isName(s, "-_.~%", maxTopicLen) }

const topicFormat = "1 to 900 letters, digits and - _ . ~ %, without /topics/"

func isInstallation(s string) bool { return isName(s, "_-", 200) }

// isName reports whether s consists of 1 to maxLen ASCII letters, digits and bytes in others.
func isName(s, others string, maxLen int) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= maxLen
}

// Replacement returns the Firebase installation ID in a registration token: the part before the colon. An
// app that has moved to installation IDs is reachable with it, and its token is unregistered.
func (*Provider) Replacement(t *push.Target) (replacement push.Target, ok bool) {
	if t.Kind() != push.ToToken {
		return push.Target{}, false
	}
	id, secret, colon := strings.Cut(t.Token, ":")
	return push.Target{Installation: id}, colon && secret != "" && isInstallation(id)
}

// targetName returns the member of FCM's message for a target of that kind, or "".
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

// checkTarget checks that there is one target that FCM supports, with valid syntax.
func checkTarget(t *push.Target) error {
	switch kind := t.Kind(); {
	case targetName(kind) == "":
		return invalid("token", invalidTarget, "set, or topic, condition or installation instead, and no other target, for FCM")
	case kind == push.ToToken && !isToken(t.Token):
		return invalid("token", invalidTarget, "1 to 4096 letters, digits, colons, underscores and hyphens")
	case kind == push.ToTopic && !isTopic(t.Topic):
		return invalid("topic", invalidTarget, topicFormat)
	case kind == push.ToCondition && !isCondition(t.Condition):
		return invalid("condition", invalidTarget, "made of at most 5 terms 'name' in topics, with && || ! and parentheses")
	case kind == push.ToInstallation && !isInstallation(t.Installation):
		return invalid("installation", invalidTarget, "a Firebase installation ID: letters, digits, underscores and hyphens")
	}
	return nil
}

// isCondition reports whether s has the syntax
//
//	expression = term { ("&&" | "||") term }
//	term       = "!" term | "(" expression ")" | "'" topic "'" "in" "topics"
func isCondition(s string) bool {
	if len(s) > maxConditionLen {
		return false
	}
	c := condition{rest: s}
	return c.expression() && c.skip("") && c.rest == "" && c.topics <= maxConditionTopics
}

// condition is a parser that reads a condition from left to right.
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

// skip consumes a word and the spaces before it, and reports whether it found the word.
func (c *condition) skip(word string) bool {
	rest, found := strings.CutPrefix(strings.TrimLeft(c.rest, " \t"), word)
	if found {
		c.rest = rest
	}
	return found
}
