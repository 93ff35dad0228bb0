// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"slices"
)

const (
	maxTags      = 8
	maxTagLength = 64
)

// TagRule describes a valid tag.
const TagRule = "1 to 64 letters, digits, '.', '_', '-', ':' and '/' (ASCII)"

// CheckTags returns a FieldError if there are more than eight tags, if one is invalid, or if one is given
// twice.
func CheckTags(tags []string) error {
	if len(tags) > maxTags {
		return &FieldError{Field: "tags", Reason: "InvalidField", Allowed: fmt.Sprintf("at most %d tags", maxTags)}
	}
	for i, tag := range tags {
		if !IsTag(tag) {
			return &FieldError{Field: fmt.Sprintf("tags[%d]", i), Reason: "InvalidField", Allowed: TagRule}
		}
		if first := slices.Index(tags, tag); first < i {
			return &FieldError{Field: fmt.Sprintf("tags[%d]", i), Reason: "InvalidField", Allowed: fmt.Sprintf("different from tags[%d]", first)}
		}
	}
	return nil
}

// IsTag reports whether a tag is valid; see TagRule.
func IsTag(tag string) bool {
	if tag == "" || len(tag) > maxTagLength {
		return false
	}
	for i := range len(tag) {
		switch c := tag[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-', c == ':', c == '/':
		default:
			return false
		}
	}
	return true
}
