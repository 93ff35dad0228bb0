// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// replaceable gives a notification the key by which the recall replaces it on the device: the collapse key
// for APNs and Web Push, the tag of an Android notification for FCM. A key of the message stays: the recall
// message must have the same one then. FCM's collapse key is not used, because FCM limits the number of
// keys of a device, and how often each may be sent.
func replaceable(n *push.Notification, broadcast string) {
	key := strings.ReplaceAll(broadcast, "-", "") // 32 characters, as long as a Topic may be
	switch n.Platform {
	case push.APNs:
		kind := n.APNs.Header("apns-push-type")
		if n.CollapseKey == "" && n.APNs.Header("apns-collapse-id") == "" && (kind == "" || kind == "alert") && n.Channel == "" {
			n.CollapseKey = key
		}
	case push.WebPush:
		if n.CollapseKey == "" {
			n.CollapseKey = key
		}
	case push.FCM:
		n.FCM = withTag(n.FCM, n.Title != "" || n.Body != "", key)
	}
}

// withTag returns a block whose message has a tag, if it is displayed: because it has texts, or a
// notification of its own. A tag alone would display a message that has only data.
func withTag(block *push.FCMBlock, hasTexts bool, tag string) *push.FCMBlock {
	tagged := new(push.FCMBlock)
	if block != nil {
		*tagged = *block
	}
	message, ok := objectAt(jsontext.Value(tagged.Message))
	if !ok {
		return block
	}
	android, ok1 := objectAt(message["android"])
	notification, ok2 := objectAt(android["notification"])
	common, _ := objectAt(message["notification"])
	isDisplayed := hasTexts || len(common) > 0 || len(notification) > 0
	if !ok1 || !ok2 || !isDisplayed || notification["tag"] != nil {
		return block
	}
	notification["tag"] = jsontext.Value(`"` + tag + `"`)
	android["notification"] = encoded(notification)
	message["android"] = encoded(android)
	tagged.Message = []byte(encoded(message))
	return tagged
}

// objectAt returns the members of an object, which are none if text is empty. It returns false if text is
// not an object.
func objectAt(text jsontext.Value) (map[string]jsontext.Value, bool) {
	members := map[string]jsontext.Value{}
	if len(text) == 0 {
		return members, true
	}
	return members, json.Unmarshal(text, &members) == nil && members != nil
}

func encoded(members map[string]jsontext.Value) jsontext.Value {
	text, _ := json.Marshal(members, json.Deterministic(true)) // of values that were decoded
	return text
}
