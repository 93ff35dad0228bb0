// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/mockprovider"
)

// warningFields returns the fields of the warnings of a receipt.
func warningFields(receipt map[string]any) (fields []string) {
	warnings, _ := receipt["warnings"].([]any)
	for _, w := range warnings {
		fields = append(fields, fmt.Sprint(w.(map[string]any)["field"]))
	}
	return fields
}

func TestWarningsAreInEveryReceipt(t *testing.T) {
	h := newMockEnv(t).startWithQueue(t, t.TempDir())
	const dropped = `{"platform":"fcm","token":"a:b","data":{"gcm.x":"y"}}`
	const unknown = `{"platform":"fcm","token":"a:b","fcm":{"message":{"android_v3":{},"android":{"ttl":"1s","colour":1}}}}`
	code, got := h.request("POST", "", dropped)
	if fields := warningFields(got); code != 200 || got["status"] != "accepted" || fmt.Sprint(fields) != "[data]" {
		t.Error(code, got)
	}
	code, got = h.request("POST", "", unknown) // the mock does not know the fields either
	if fields := warningFields(got); code != 200 || got["status"] != "refused" || fmt.Sprint(fields) != "[fcm.message.android_v3 fcm.message.android.colour]" {
		t.Error(code, got)
	}
	code, got = h.request("POST", "", dropped, "Prefer", "respond-async")
	if fields := warningFields(got); code != 202 || fmt.Sprint(fields) != "[data]" {
		t.Error(code, got)
	}
	if got = h.waitStatus(got["id"], "accepted"); fmt.Sprint(warningFields(got)) != "[data]" {
		t.Error("from the history:", got)
	}
	for _, body := range []string{dropped, unknown} {
		for _, headers := range [][]string{nil, {"Prefer", "respond-async"}} {
			code, got = h.request("POST", "", strings.TrimSuffix(body, "}")+`,"strict":true}`, headers...)
			if field := fmt.Sprint(got["field"]); code != 400 || field != "data" && !strings.HasPrefix(field, "fcm.message.") {
				t.Error(code, got)
			}
		}
	}
}

func TestFirebaseInstallationIDIsSentAfterUnregistered(t *testing.T) {
	r := newShopGateway(t, mockprovider.Config{}, "")
	for target, attempts := range map[string]int{
		`"token":"abc:dead"`: 0, `"token":"deadYrQpK7sR1mUx7sYt1k"`: 1, `"installation":"deadYrQpK7sR1mUx7sYt1k"`: 1,
	} {
		body := `{"platform":"fcm",` + target + `,"title":"x"}`
		first, second := r.send(t, body), r.send(t, body)
		if first.Status != "unregistered" || !first.ForgetToken || len(first.Attempts) != 1 {
			t.Errorf("%s: %+v", target, first)
		}
		if second.Status != "unregistered" || !second.ForgetToken || len(second.Attempts) != attempts {
			t.Errorf("%s, second time: %+v", target, second)
		}
	}
	if got := r.send(t, `{"platform":"fcm","token":"cE3dZp4rQ0mUx7sYt1kLwA","title":"x"}`); got.Status != "accepted" {
		t.Errorf("an installation ID as token: %+v", got)
	}
}
