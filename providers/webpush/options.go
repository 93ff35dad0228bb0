// SPDX-License-Identifier: Apache-2.0

package webpush

import (
	"cmp"
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// options are the title and the options of showNotification (WHATWG Notifications API), and navigate,
// the URL to open. Browsers of Apple parse only some of them in a declarative push message; the others
// have no effect there.
type options struct {
	Title              string         `json:"title,omitzero"`
	Body               string         `json:"body,omitzero"`
	Navigate           string         `json:"navigate,omitzero"`
	Image              string         `json:"image,omitzero"`
	Icon               string         `json:"icon,omitzero"`
	Badge              string         `json:"badge,omitzero"` // the URL of an image, not a number
	Tag                string         `json:"tag,omitzero"`
	Lang               string         `json:"lang,omitzero"`
	Dir                string         `json:"dir,omitzero"`
	Silent             *bool          `json:"silent,omitzero"`
	RequireInteraction *bool          `json:"requireInteraction,omitzero"`
	Renotify           *bool          `json:"renotify,omitzero"`
	Timestamp          jsontext.Value `json:"timestamp,omitzero"`
	Vibrate            jsontext.Value `json:"vibrate,omitzero"`
	Actions            []action       `json:"actions,omitzero"`
	Data               jsontext.Value `json:"data,omitzero"`
	// Unknown are members that this version does not know. They are sent with a warning.
	Unknown jsontext.Value `json:",embed"`
}

// action is a button of a notification. In a declarative push message, each needs a URL.
type action struct {
	Action   string         `json:"action,omitzero"`
	Title    string         `json:"title,omitzero"`
	Navigate string         `json:"navigate,omitzero"`
	Icon     string         `json:"icon,omitzero"`
	Unknown  jsontext.Value `json:",embed"`
}

const optionsField = "webpush.notification"

// optionsOf returns the options of n: those of webpush.notification, or else those of the common
// fields.
func optionsOf(n *push.Notification) (o options, err error) {
	if n.WebPush != nil && len(n.WebPush.Notification) > 0 {
		if err := json.Unmarshal(n.WebPush.Notification, &o); err != nil {
			return o, invalidOption(err)
		}
		if err := o.check(n); err != nil {
			return o, err
		}
	}
	o.Title, o.Body, o.Image, o.Tag = cmp.Or(o.Title, n.Title), cmp.Or(o.Body, n.Body), cmp.Or(o.Image, n.Image), cmp.Or(o.Tag, n.CollapseKey)
	if o.Data == nil && len(n.Data) > 0 {
		if o.Data, err = json.Marshal(n.Data, json.Deterministic(true)); err != nil {
			return o, invalid("data", invalidField, "valid UTF-8")
		}
	}
	return o, nil
}

// invalidOption returns the error for a value that has the wrong type, or for invalid JSON.
func invalidOption(err error) error {
	wrong, ok := errors.AsType[*json.SemanticError](err)
	if !ok || wrong.GoType == nil {
		return invalid(optionsField, invalidField, "a JSON object without duplicate names")
	}
	kinds := map[reflect.Kind]string{reflect.String: "a string", reflect.Bool: "true or false", reflect.Slice: "an array", reflect.Struct: "an object"}
	return invalid(optionPath(string(wrong.JSONPointer)), invalidField, cmp.Or(kinds[wrong.GoType.Kind()], "of another type"))
}

// optionPath returns the path of the field at a JSON pointer: /actions/0/title is
// webpush.notification.actions[0].title.
func optionPath(pointer string) string {
	path := optionsField
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if _, err := strconv.Atoi(part); err == nil {
			path += "[" + part + "]"
		} else if part != "" {
			path += "." + part
		}
	}
	return path
}

// optionNames are the known members of webpush.notification.
const optionNames = "title, body, navigate, image, icon, badge, tag, lang, dir, silent, requireInteraction, renotify, timestamp, vibrate, actions and data"

const httpsURL = "an https URL, such as https://example.com/orders/7"

// check checks the options that a sender has set.
func (o *options) check(n *push.Notification) error {
	for name, rule := range map[string]struct {
		value   string
		fits    func(string) bool
		allowed string
	}{
		"navigate": {o.Navigate, isHTTPS, httpsURL},
		"image":    {o.Image, isHTTPS, "an https URL"},
		"icon":     {o.Icon, isHTTPS, "an https URL"},
		"badge":    {o.Badge, isHTTPS, "the https URL of an image; the number on the app's icon is the common field badge"},
		"dir":      {o.Dir, func(s string) bool { return slices.Contains([]string{"auto", "ltr", "rtl"}, s) }, "auto, ltr or rtl"},
	} {
		if rule.value != "" && !rule.fits(rule.value) {
			return invalid(optionsField+"."+name, invalidField, rule.allowed)
		}
	}
	for i := range o.Actions {
		a := &o.Actions[i]
		path := optionsField + ".actions[" + strconv.Itoa(i) + "]"
		switch {
		case a.Action == "":
			return invalid(path+".action", invalidField, "set: the service worker gets it in the event notificationclick")
		case a.Title == "":
			return invalid(path+".title", invalidField, "set: it is the text of the button")
		case a.Navigate != "" && !isHTTPS(a.Navigate):
			return invalid(path+".navigate", invalidField, httpsURL)
		case a.Icon != "" && !isHTTPS(a.Icon):
			return invalid(path+".icon", invalidField, "an https URL")
		}
		if err := warnUnknown(n, path, a.Unknown, "action, title, navigate and icon"); err != nil {
			return err
		}
	}
	return warnUnknown(n, optionsField, o.Unknown, optionNames)
}

// ownMembers are members of the payload that fields of their own set.
var ownMembers = map[string]string{
	"app_badge": "the common field badge sets it", "subtitle": "the common field subtitle sets it", "sound": "the common field sound sets it",
	"mutable": "webpush.mutable sets it", "web_push": "webpush.declarative sets it", "notification": "its members belong here",
}

// warnUnknown warns about members that this version does not know. A member that has a field of its own
// is invalid.
func warnUnknown(n *push.Notification, path string, unknown jsontext.Value, known string) error {
	var members map[string]jsontext.Value
	if len(unknown) == 0 || json.Unmarshal(unknown, &members) != nil {
		return nil
	}
	for name := range members {
		if elsewhere := ownMembers[name]; elsewhere != "" {
			return invalid(path+"."+name, invalidField, "absent: "+elsewhere)
		}
		field := path
		if isMemberName(name) {
			field += "." + name
		}
		if err := n.Warn(field, "one of "+known); err != nil {
			return err
		}
	}
	return nil
}

// isMemberName reports whether a name can be part of an error text: it may be a secret in the wrong
// place.
func isMemberName(s string) bool {
	return len(s) <= 40 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

func isHTTPS(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != ""
}
