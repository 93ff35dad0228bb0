// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/minio/highwayhash"
	"golang.org/x/text/language"

	"github.com/sluice-push/sluice/push"
)

// Definition is what a broadcast sends. Its JSON form is part of a broadcast. The comment of the package
// describes a message.
type Definition struct {
	// Language is the BCP 47 tag of the texts that are not in languages; empty if it is not known.
	// Recipients without a language, or with one that has no texts, get these texts.
	Language string `json:"language,omitempty"`
	// Message is the message, unless there are variants.
	Message jsontext.Value `json:"message,omitempty"`
	// Variants are messages of which each recipient gets one.
	Variants []Variant `json:"variants,omitempty"`
}

// Variant is a message for a share of the recipients.
type Variant struct {
	Name string `json:"name"`
	// Weight divided by the sum of all weights is the share.
	Weight  int            `json:"weight"`
	Message jsontext.Value `json:"message"`
}

// Limits of a definition.
const (
	maxVariants  = 16
	maxWeight    = 1_000_000
	maxLanguages = 64
	// maxMessages bounds the memory of the templates, of which each language and platform can have one, and the
	// size of a stored broadcast, which must fit into a message of NATS.
	maxMessages = 256 << 10 // bytes
)

// platforms are the platforms that a message can be sent to.
var platforms = []push.Platform{push.APNs, push.FCM, push.WebPush}

// Content is a compiled definition. It is immutable and safe for concurrent use.
type Content struct {
	variants  []string
	bounds    []uint64 // the sum of the weights of a variant and those before it
	languages []string // the fallback first
	matcher   language.Matcher
	matched   *lru.Cache[string, int] // index in languages by tag
	templates map[templateKey]*messageTemplate
}

// templateKey selects a template: variant and lang are indexes.
type templateKey struct {
	platform push.Platform
	variant  int
	lang     int
}

// Compile checks a definition. The error is a *strictjson.Error.
func Compile(d *Definition) (*Content, error) {
	variants, err := d.variants()
	if err != nil {
		return nil, err
	}
	c := &Content{templates: map[templateKey]*messageTemplate{}}
	parsed := make([]layers, len(variants))
	for i, v := range variants {
		if parsed[i], err = parseLayers(v.Message); err != nil {
			return nil, at(d.path(i), err)
		}
		if err := c.addVariant(d, i, &parsed[i]); err != nil {
			return nil, err
		}
	}
	if err := c.setLanguages(d.Language, parsed[0].languageNames()); err != nil {
		return nil, err
	}
	for i := range variants {
		if err := c.addTemplates(i, &parsed[i]); err != nil {
			return nil, at(d.path(i), err)
		}
	}
	return c, nil
}

// variants returns the variants. A message alone is one variant without a name.
func (d *Definition) variants() ([]Variant, error) {
	size := len(d.Message)
	for _, v := range d.Variants {
		size += len(v.Message)
	}
	switch {
	case len(d.Variants) == 0 && d.Message == nil:
		return nil, invalid("message", "must be set, or variants instead")
	case size > maxMessages:
		return nil, invalid("message", fmt.Sprintf("must have at most %d bytes, together with the messages of all variants", maxMessages))
	case d.Variants == nil:
		return []Variant{{Weight: 1, Message: d.Message}}, nil
	case d.Message != nil:
		return nil, invalid("variants", "must be absent if message is set")
	case len(d.Variants) > maxVariants:
		return nil, invalid("variants", fmt.Sprintf("must have at most %d entries", maxVariants))
	}
	for i, v := range d.Variants {
		at := fmt.Sprintf("variants[%d].", i)
		sameName := func(other Variant) bool { return other.Name == v.Name }
		switch {
		case !push.IsTag(v.Name):
			return nil, invalid(at+"name", "must have "+push.TagRule)
		case slices.ContainsFunc(d.Variants[:i], sameName):
			return nil, invalid(at+"name", "must differ from those of other variants")
		case v.Weight < 1 || v.Weight > maxWeight:
			return nil, invalid(at+"weight", "must be a whole number from 1 to 1,000,000")
		case v.Message == nil:
			return nil, invalid(at+"message", "must be set")
		}
	}
	return d.Variants, nil
}

// path returns the path of the message of a variant.
func (d *Definition) path(variant int) string {
	if d.Variants == nil {
		return "message"
	}
	return fmt.Sprintf("variants[%d].message", variant)
}

// addVariant adds a variant without its templates. All variants must have texts in the same languages:
// otherwise the language would decide which variant a recipient sees.
func (c *Content) addVariant(d *Definition, i int, l *layers) error {
	name, weight := "", 1
	if d.Variants != nil {
		name, weight = d.Variants[i].Name, d.Variants[i].Weight
	}
	total := uint64(0)
	if i > 0 {
		total = c.bounds[i-1]
		if !slices.Equal(l.languageNames(), c.languages) {
			return invalid(d.path(i)+".languages", "must be the languages of the first variant: "+strings.Join(c.languages, ", "))
		}
	}
	c.variants, c.bounds, c.languages = append(c.variants, name), append(c.bounds, total+uint64(weight)), l.languageNames()
	return nil
}

// setLanguages sets the languages of the texts.
func (c *Content) setLanguages(fallback string, names []string) error {
	if len(names) > maxLanguages {
		return invalid("message.languages", fmt.Sprintf("must have at most %d members", maxLanguages))
	}
	tags := []language.Tag{language.Und}
	if fallback != "" {
		tag, valid := parseTag(fallback)
		if !valid {
			return invalid("language", languageRule)
		}
		tags[0] = tag
	}
	for _, name := range names {
		tag, _ := parseTag(name) // it was checked
		if tag == tags[0] {
			return invalid("language", "must be another language than those in languages")
		}
		tags = append(tags, tag)
	}
	c.languages = append([]string{fallback}, names...)
	c.matcher = language.NewMatcher(tags)
	var err error
	c.matched, err = lru.New[string, int](1000)
	return err
}

// addTemplates compiles the messages of a variant. Languages in which the message to a platform is the
// same share a template.
func (c *Content) addTemplates(variant int, l *layers) error {
	for _, platform := range platforms {
		for lang, name := range c.languages {
			key := templateKey{platform, variant, lang}
			if lang > 0 && !l.differs(platform, name) {
				c.templates[key] = c.templates[templateKey{platform, variant, 0}]
				continue
			}
			merged, err := l.merged(platform, name)
			if err != nil {
				return err
			}
			if c.templates[key], err = newMessageTemplate(merged.notification(platform)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Variants returns the names of the variants, or one empty name.
func (c *Content) Variants() []string { return slices.Clone(c.variants) }

// Languages returns the languages of the texts, the fallback first.
func (c *Content) Languages() []string { return slices.Clone(c.languages) }

// Variables returns the names of the variables that the message uses, sorted.
func (c *Content) Variables() []string {
	var names []string
	for _, m := range c.templates {
		names = append(names, m.variables(false)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Variant returns the index of the variant that a recipient gets in a broadcast. It depends only on the
// ID of the broadcast, the weights, and the recipient's key or else its target. So a device that is
// uploaded again gets the same variant, and all devices with one key get the same one.
func (c *Content) Variant(broadcastID string, r *Recipient) int {
	if len(c.variants) == 1 {
		return 0
	}
	var buffer [512]byte
	text := append(append(buffer[:0], broadcastID...), 0)
	if r.Key != "" {
		text = append(append(text, "key\x00"...), r.Key...)
	} else {
		text = appendDevice(text, r)
	}
	at, _ := bits.Mul64(highwayhash.Sum64(text, stableKey), c.bounds[len(c.bounds)-1])
	index, _ := slices.BinarySearch(c.bounds, at+1) // the first bound that is greater
	return index
}

// Render sets n to the notification of a variant for a recipient. It sets neither the ID, the app nor a
// time. n shares data with c and with other notifications, so what it points to must not be modified.
// The error is a *strictjson.Error with the reason MissingVariable. n is not checked by its provider.
func (c *Content) Render(r *Recipient, variant int, n *push.Notification) error {
	m := c.templates[templateKey{r.Platform, variant, c.languageIndex(r.Language)}]
	if m == nil {
		return invalid("platform", r.Platform.UnmarshalText(nil).Error())
	}
	return m.render(r, n)
}

// languageIndex returns the index of the texts for a recipient's language.
func (c *Content) languageIndex(tag string) int {
	if tag == "" || len(c.languages) == 1 {
		return 0
	}
	if index, cached := c.matched.Get(tag); cached {
		return index
	}
	index := 0
	if parsed, valid := parseTag(tag); valid {
		_, index, _ = c.matcher.Match(parsed)
	}
	c.matched.Add(tag, index)
	return index
}

// Sample says what a sample message is.
type Sample struct {
	Platform push.Platform
	Variant  string
	Language string // "" for the fallback if its language is not given
	// Missing are variables without a default. The sample has their names as values.
	Missing []string
}

// Samples returns a message for each platform, variant and language, without a target, and with the
// defaults of the variables.
func (c *Content) Samples() iter.Seq2[Sample, *push.Notification] {
	return func(yield func(Sample, *push.Notification) bool) {
		for _, platform := range platforms {
			for variant, name := range c.variants {
				for lang, tag := range c.languages {
					m := c.templates[templateKey{platform, variant, lang}]
					s := Sample{platform, name, tag, m.variables(true)}
					r := Recipient{Platform: platform}
					for _, missing := range s.Missing {
						r.Variables = append(r.Variables, Variable{missing, missing})
					}
					n := new(push.Notification)
					if m.render(&r, n) == nil && !yield(s, n) { // all variables are set
						return
					}
				}
			}
		}
	}
}
