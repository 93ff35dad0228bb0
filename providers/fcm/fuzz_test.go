// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// FuzzMerge checks that a merge returns one object with every member of the raw message unchanged
// and every other member from the common message.
func FuzzMerge(f *testing.F) {
	f.Add("", "v", "s", `{"android":{"collapseKey":"x","notification":{"sound":"s"}}}`)
	f.Add("t", "v", "", `{"notification":{"body":"\ud83d\ude00"},"data":{"k":"w","l":""}}`)
	f.Add("", "", "x", `{"apns":{"payload":{"aps":{"alert":{"title":"t"},"badge":1e3}},"headers":{"APNS-Priority":"1"}},"name":null}`)
	f.Add("", "v", "s", ` { "webpush" : { "fcmOptions" : { "link" : "https://x/" } } , "androidV2":{"remoteNotification":{"notification":{"x":1}}}} `)
	f.Fuzz(func(t *testing.T, title, data, sound, raw string) {
		n := &push.Notification{Target: push.Target{Token: "a"}, Title: title, Sound: sound, Priority: push.PriorityHigh, CollapseKey: "c",
			FCM: &push.FCMBlock{Message: []byte(raw)}}
		if data != "" {
			n.Data = map[string]string{"k": data}
		}
		merged, err := merge(n)
		if err != nil {
			fieldErr, ok := errors.AsType[*push.FieldError](err)
			if !ok || fieldErr.Reason == "" || utf8.ValidString(title) && utf8.ValidString(data) && utf8.ValidString(sound) && !strings.HasPrefix(fieldErr.Field, "fcm.message") {
				t.Fatalf("%v", err)
			}
			return
		}
		above, err := parseRaw(n)
		if err != nil {
			t.Fatal(err)
		}
		message, _ := parseObject(merged)
		var common jsonobj.Writer
		appendCommon(&common, n, deriveFromMessage(n, message))
		want := overlayMaps(decodeObject(t, string(common.Bytes)), decodeObject(t, string(above.marshal())))
		if diff := cmp.Diff(want, decodeObject(t, string(merged))); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", raw, diff)
		}
	})
}

// decodeObject decodes an object and keeps numbers as text.
func decodeObject(t *testing.T, text string) map[string]any {
	t.Helper()
	var all map[string]any
	keepNumbers := json.WithUnmarshalers(json.UnmarshalFromFunc(func(in *jsontext.Decoder, v *any) error {
		if in.PeekKind() != '0' {
			return errors.ErrUnsupported
		}
		number, err := in.ReadValue()
		*v = string(number)
		return err
	}))
	if err := json.Unmarshal([]byte(text), &all, keepNumbers); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return all
}

// overlayMaps is an independent implementation of overlay.
func overlayMaps(below, above map[string]any) map[string]any {
	for name, value := range above {
		lower, isObject := below[name].(map[string]any)
		upper, both := value.(map[string]any)
		if isObject && both {
			value = overlayMaps(lower, upper)
		}
		below[name] = value
	}
	return below
}

// FuzzParseAccount checks that no file causes a panic, that no error contains what was read, and
// that an accepted file has a supported type.
func FuzzParseAccount(f *testing.F) {
	f.Add([]byte(`{"type":"service_account","project_id":"p","private_key":"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n","client_email":"a@b","token_uri":"https://x/"}`))
	f.Add([]byte(`{"type":"external_account","audience":"a","subject_token_type":"t","token_url":"https://sts.googleapis.com/v1/token","credential_source":{"file":"/x"}}`))
	f.Add([]byte(`{"type":"impersonated_service_account","service_account_impersonation_url":"https://x/","source_credentials":{"type":"authorized_user","refresh_token":"r"}}`))
	f.Add([]byte(`{"type":"external_account","audience":"a","subject_token_type":"t","credential_source":{"environment_id":"aws1","url":"x"},"installed":{"redirect_uris":["x"]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := parseAccount(text)
		if err == nil {
			if !slices.Contains([]string{"service_account", "external_account", "impersonated_service_account"}, string(a.Type)) {
				t.Errorf("accepted type %q", a.Type)
			}
			return
		}
		var given map[string]any
		_ = json.Unmarshal(text, &given)
		for _, value := range given {
			if secret, ok := value.(string); ok && len(secret) > 32 && strings.Contains(err.Error(), secret) {
				t.Errorf("error contains %q: %v", secret, err)
			}
		}
	})
}
