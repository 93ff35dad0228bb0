// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// fields are the fields of a notification that a message can have: all except the target and those
// that the broadcast sets.
type fields struct {
	Title       string             `json:"title"`
	Subtitle    string             `json:"subtitle"`
	Body        string             `json:"body"`
	Image       string             `json:"image"`
	Badge       *int               `json:"badge"`
	Sound       string             `json:"sound"`
	Data        map[string]string  `json:"data"`
	Tags        []string           `json:"tags"`
	Priority    push.Priority      `json:"priority"`
	CollapseKey string             `json:"collapse_key"`
	TTL         *push.Duration     `json:"ttl"`
	OnUnknown   push.OnUnknown     `json:"on_unknown"`
	Retry       *push.Retry        `json:"retry"`
	Strict      bool               `json:"strict"`
	APNs        *push.APNsBlock    `json:"apns"`
	FCM         *push.FCMBlock     `json:"fcm"`
	WebPush     *push.WebPushBlock `json:"webpush"`
}

// notification returns a notification to a platform, without a target.
func (f *fields) notification(platform push.Platform) *push.Notification {
	n := &push.Notification{
		Platform: platform, Lane: push.LaneBulk,
		Title: f.Title, Subtitle: f.Subtitle, Body: f.Body, Image: f.Image, Badge: f.Badge, Sound: f.Sound, Data: f.Data,
		Tags: f.Tags, Priority: f.Priority, CollapseKey: f.CollapseKey, TTL: f.TTL, OnUnknown: f.OnUnknown, Retry: f.Retry,
		Strict: f.Strict,
	}
	switch platform {
	case push.APNs:
		n.APNs = f.APNs
	case push.FCM:
		n.FCM = f.FCM
	case push.WebPush:
		n.WebPush = f.WebPush
	}
	return n
}

// Limits of a message, those of a notification.
const (
	maxDepth    = 32
	maxMembers  = 256
	maxAttempts = 10
)

// check finds errors that the decoder does not. It removes raw blocks that are null.
func (f *fields) check() error {
	if f.Retry != nil && (f.Retry.Attempts < 1 || f.Retry.Attempts > maxAttempts) {
		return invalid("retry.attempts", fmt.Sprintf("must be a whole number from 1 to %d", maxAttempts))
	}
	if err := push.CheckTags(f.Tags); err != nil {
		e, _ := errors.AsType[*push.FieldError](err)
		return invalid(e.Field, "must be "+e.Allowed)
	}
	if len(f.Data) > maxMembers {
		return invalid("data", fmt.Sprintf("must have at most %d members", maxMembers))
	}
	if f.APNs != nil && string(f.APNs.Payload) == "null" {
		f.APNs.Payload = nil
	}
	if f.FCM != nil && string(f.FCM.Message) == "null" {
		f.FCM.Message = nil
	}
	if f.APNs != nil && !isObject(f.APNs.Payload) {
		return invalid("apns.payload", "must be an object")
	}
	if f.FCM != nil && !isObject(f.FCM.Message) {
		return invalid("fcm.message", "must be an object")
	}
	for _, platform := range platforms {
		if _, err := newMessageTemplate(f.notification(platform)); err != nil {
			return err
		}
	}
	return nil
}

// isObject reports whether a value is absent or an object.
func isObject(value []byte) bool { return len(value) == 0 || value[0] == '{' }

// message is a message with what differs for platforms and languages.
type message struct {
	fields
	Platforms map[push.Platform]platformMessage `json:"platforms"`
	Languages map[string]fields                 `json:"languages"`
}

// platformMessage is what differs for a platform.
type platformMessage struct {
	fields
	Languages map[string]fields `json:"languages"`
}

// layers are the parts of a message as JSON objects.
type layers struct {
	base      jsontext.Value
	languages map[string]jsontext.Value
	platforms map[push.Platform]layers
}

// parseLayers checks a message strictly and splits it. The fields of its errors start in the message.
func parseLayers(text jsontext.Value) (layers, error) {
	if strictjson.Depth(text) > maxDepth {
		return layers{}, invalid("", fmt.Sprintf("must be nested at most %d deep", maxDepth))
	}
	var checked message
	if err := json.Unmarshal(text, &checked, strict); err != nil {
		return layers{}, strictjson.Explain(err, text)
	}
	if err := checked.check(); err != nil {
		return layers{}, err
	}
	if err := checkLanguages("languages", checked.Languages); err != nil {
		return layers{}, err
	}
	for _, platform := range slices.Sorted(maps.Keys(checked.Platforms)) {
		path, own := "platforms."+string(platform), checked.Platforms[platform]
		if err := own.check(); err != nil {
			return layers{}, at(path, err)
		}
		if err := checkLanguages(path+".languages", own.Languages); err != nil {
			return layers{}, err
		}
	}
	return splitLayers(text)
}

// checkLanguages checks what differs for languages.
func checkLanguages(path string, languages map[string]fields) error {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(languages)) {
		tag, valid := parseTag(name)
		if !valid {
			return invalid(path, "must have names that are BCP 47 language tags, such as de or pt-BR")
		}
		if first, found := seen[tag.String()]; found {
			return invalid(path+"."+name, "must be another language than "+first)
		}
		seen[tag.String()] = name
		f := languages[name]
		if err := f.check(); err != nil {
			return at(path+"."+name, err)
		}
	}
	return nil
}

// splitLayers splits a message that was checked.
func splitLayers(text jsontext.Value) (l layers, err error) {
	var members map[string]jsontext.Value
	if err := json.Unmarshal(text, &members); err != nil {
		return layers{}, err
	}
	if err := decodeMember(members["languages"], &l.languages); err != nil {
		return layers{}, err
	}
	var platforms map[push.Platform]jsontext.Value
	if err := decodeMember(members["platforms"], &platforms); err != nil {
		return layers{}, err
	}
	l.platforms = map[push.Platform]layers{}
	for name, platform := range platforms {
		if l.platforms[name], err = splitLayers(platform); err != nil {
			return layers{}, err
		}
	}
	delete(members, "languages")
	delete(members, "platforms")
	l.base, err = json.Marshal(members, json.Deterministic(true))
	return l, err
}

func decodeMember(value jsontext.Value, to any) error {
	if value == nil {
		return nil
	}
	return json.Unmarshal(value, to)
}

// merged returns the fields of the message for a platform and language. The fields of its errors start
// in the message.
func (l *layers) merged(platform push.Platform, lang string) (*fields, error) {
	own := l.platforms[platform]
	text := l.base
	for _, patch := range []jsontext.Value{own.base, l.languages[lang], own.languages[lang]} {
		var err error
		if text, err = mergePatch(text, patch); err != nil {
			return nil, err
		}
	}
	f := new(fields)
	if err := json.Unmarshal(text, f, strict); err != nil {
		return nil, strictjson.Explain(err, text)
	}
	return f, f.check()
}

// differs reports whether the message to a platform differs in a language from that in the fallback
// language.
func (l *layers) differs(platform push.Platform, lang string) bool {
	return l.languages[lang] != nil || l.platforms[platform].languages[lang] != nil
}

// languageNames returns the languages of all platforms, sorted.
func (l *layers) languageNames() []string {
	found := map[string]bool{}
	for name := range l.languages {
		found[name] = true
	}
	for _, own := range l.platforms {
		for name := range own.languages {
			found[name] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// mergePatch applies a merge patch (RFC 7396). A patch that is absent changes nothing.
func mergePatch(value, patch jsontext.Value) (jsontext.Value, error) {
	switch {
	case patch == nil:
		return value, nil
	case patch.Kind() != jsontext.KindBeginObject:
		return patch, nil
	}
	members, changes := map[string]jsontext.Value{}, map[string]jsontext.Value{}
	if value != nil && value.Kind() == jsontext.KindBeginObject {
		if err := json.Unmarshal(value, &members); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(patch, &changes); err != nil {
		return nil, err
	}
	for name, change := range changes {
		if change.Kind() == jsontext.KindNull {
			delete(members, name)
			continue
		}
		merged, err := mergePatch(members[name], change)
		if err != nil {
			return nil, err
		}
		members[name] = merged
	}
	return json.Marshal(members, json.Deterministic(true))
}

// at returns an error with a path before its field.
func at(path string, err error) error {
	e, ok := errors.AsType[*strictjson.Error](err)
	if !ok {
		return err
	}
	field := e.Field
	if field != "" {
		field = "." + field
	}
	return &strictjson.Error{Reason: cmp.Or(e.Reason, strictjson.InvalidField), Field: path + field, Detail: e.Detail}
}
