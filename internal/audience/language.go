// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"errors"

	"golang.org/x/text/language"
)

const languageRule = `must be a BCP 47 language tag such as "de" or "pt-BR"`

// parseTag parses a well-formed tag. The parts of it that are unknown are ignored.
func parseTag(text string) (language.Tag, bool) {
	tag, err := language.Parse(text)
	if err == nil {
		return tag, true
	}
	_, unknown := errors.AsType[language.ValueError](err)
	return tag, unknown
}

// tagCache remembers which tags are well-formed. An audience has few different ones.
type tagCache struct{ known map[string]bool }

func (c *tagCache) valid(text string) bool {
	valid, cached := c.known[text]
	if cached {
		return valid
	}
	if len(c.known) >= 1000 || c.known == nil {
		c.known = map[string]bool{}
	}
	_, valid = parseTag(text)
	c.known[text] = valid
	return valid
}
