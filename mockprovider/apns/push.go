// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// tokenRejections holds the device tokens that are not registered, by their first eight digits. All
// other well-formed tokens are registered. A random token is unlikely to begin with such digits.
var tokenRejections = map[string]rejection{
	"dead0000": {410, "Unregistered"},
	"deaddead": {410, "Unregistered"},
	"dead0001": {410, "ExpiredToken"},
	"deadbeef": {400, "BadDeviceToken"},
	"bad00000": {400, "BadDeviceToken"},
	"bad00001": {400, "DeviceTokenNotForTopic"},
	"fa110429": {429, "TooManyRequests"},
	"fa110500": {500, "InternalServerError"},
	"fa110503": {503, "ServiceUnavailable"},
}

// isImpossible reports whether no device can have the token: tokens are random, and this one is zero.
func isImpossible(token string) bool { return strings.Trim(token, "0") == "" && len(token) >= 64 }

// tokenEnvironment holds the device tokens that exist only in the sandbox or only in production, by
// their first eight digits.
var tokenEnvironment = map[string]string{"5a2db0c0": Sandbox, "5a2db0c1": Production}

// accept responds 200, with apns-unique-id in the sandbox.
func accept(r *h2.Request) h2.Response {
	resp := h2.Response{Status: 200, Accepted: true}
	resp.Header = append(resp.Header, h2.UniqueField("apns-id", setID(r)))
	if isSandbox(r) {
		resp.Header = append(resp.Header, h2.UniqueField("apns-unique-id", uuid.NewString()))
	}
	return resp
}

// reject responds with a reason. A 410 has a timestamp in milliseconds, by default a day before the
// start of the service.
func (s *Service) reject(r *h2.Request, rejected rejection, timestamp int64) h2.Response {
	resp := h2.Response{Status: rejected.status, Reason: rejected.reason}
	resp.Header = append(resp.Header, h2.UniqueField("apns-id", setID(r)), h2.Field("content-type", "application/json"))
	if rejected.reason == "" {
		return resp
	}
	reason, _ := json.Marshal(rejected.reason)
	if rejected.status == 410 {
		timestamp = cmp.Or(timestamp, s.started.Add(-24*time.Hour).UnixMilli())
		resp.Body = fmt.Appendf(nil, `{"reason":%s,"timestamp":%d}`, reason, timestamp)
		return resp
	}
	resp.Body = fmt.Appendf(nil, `{"reason":%s}`, reason)
	return resp
}

// setID sets r.ID to the apns-id of the client, or generates one in upper case, as APNs does.
func setID(r *h2.Request) string {
	if r.ID == "" {
		r.ID = r.Get("apns-id")
	}
	if !isUUID(r.ID) {
		r.ID = strings.ToUpper(uuid.NewString())
	}
	return r.ID
}

// checkPush returns the first reason to reject a push. The order of APNs' checks is not documented;
// here it is method, path, credential, header fields, format of the device token, topic, device token,
// payload.
func (c *Conn) checkPush(r *h2.Request) rejection {
	if r.Method != "POST" {
		return rejection{405, "MethodNotAllowed"}
	}
	if !strings.HasPrefix(r.Path, devicePath) || strings.ContainsAny(r.Token, "/?#") {
		return rejection{404, "BadPath"}
	}
	if rejected := c.authenticate(r); rejected.status != 0 {
		return rejected
	}
	if reason := checkHeader(r); reason != "" {
		return rejection{400, reason}
	}
	if reason := checkTokenFormat(r.Token); reason != "" {
		return rejection{400, reason}
	}
	if reason := c.checkTopic(r); reason != "" {
		return rejection{400, reason}
	}
	if rejected := checkToken(r); rejected.status != 0 {
		return rejected
	}
	return checkPayload(r)
}

// checkTokenFormat checks that a device token is an even number of hex digits for 1 to 100 bytes.
// According to Apple, the size of tokens may change.
func checkTokenFormat(token string) (reason string) {
	switch {
	case token == "":
		return "MissingDeviceToken"
	case len(token)%2 != 0 || len(token) > 200 || !isHex(token):
		return "BadDeviceToken"
	}
	return ""
}

// checkToken checks whether a device token is registered, and in which environment.
func checkToken(r *h2.Request) rejection {
	token := r.Token
	switch {
	case len(token) < 8:
		return rejection{}
	case isImpossible(token):
		return rejection{400, "BadDeviceToken"}
	}
	prefix := token[:8]
	if environment := tokenEnvironment[prefix]; environment != "" && (environment == Sandbox) != isSandbox(r) {
		return rejection{400, "BadDeviceToken"}
	}
	return tokenRejections[prefix]
}

// checkPayload checks that the payload is a JSON object, and its size.
func checkPayload(r *h2.Request) rejection {
	if len(r.Body) == 0 {
		return rejection{400, "PayloadEmpty"}
	}
	if len(r.Body) > maxPayload(r.Get("apns-push-type")) || r.TooLong {
		return rejection{413, "PayloadTooLarge"}
	}
	first := strings.TrimLeft(string(r.Body[:1]), " \t\r\n")
	if (first != "" && first != "{") || !json.Valid(r.Body) {
		return rejection{400, "PayloadEmpty"}
	}
	return rejection{}
}

// maxPayload returns the maximum size of a payload in bytes: 5 KiB for VoIP, 4 KiB for all others.
func maxPayload(pushType string) int {
	if pushType == "voip" {
		return 5120
	}
	return 4096
}

// checkTopic checks the topic against the topics of the credential and the suffix of the push type.
func (c *Conn) checkTopic(r *h2.Request) (reason string) {
	topic, byCert := r.Get("apns-topic"), c.cert != nil
	if topics := topicsOf(c.cert); topic == "" && len(topics) == 1 {
		topic = topics[0]
	}
	if topic == "" {
		return "MissingTopic"
	}
	if !isTopic(topic) {
		return "BadTopic"
	}
	base, suffix := splitTopic(topic)
	if want, known := topicSuffix[r.Get("apns-push-type")]; known && want != suffix {
		return "BadTopic"
	}
	if byCert && !slices.Contains(topicsOf(c.cert), topic) && !slices.Contains(topicsOf(c.cert), base) || !byCert && !slices.Contains(c.key.Topics, base) {
		return "TopicDisallowed"
	}
	return ""
}
