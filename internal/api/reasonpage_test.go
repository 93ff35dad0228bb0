// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
)

// reasonFacts are the facts about a reason.
type reasonFacts struct {
	status  string // of the provider's response, or of the API's response to a single call
	verdict string
	retried string // whether the gateway retries it
	advice  string // empty: that of the verdict
}

// adviceFor says what to do about a verdict.
var adviceFor = map[string]string{
	"refused":      "Correct the notification. Sending it again as it is cannot succeed.",
	"unregistered": "Delete the token or subscription.",
	"throttled":    "Wait for `retry_after`. The gateway reduces its rate automatically.",
	"unauthorized": "Operator: run `gateway check`, and replace the credential ([runbook](../runbooks/credential-rejected.md)).",
	"unavailable":  "Send it again after `retry_after`, or send it through the queue, which does that.",
	"unsent":       "Send it again; it was not delivered.",
	"unknown":      "It may have been delivered. Set `on_unknown` according to what is worse: a duplicate or a loss.",
	"abandoned":    "Send it again; it was not delivered.",
	"expired":      "Set a longer `ttl` if the notification is still useful later.",
	"cancelled":    "Send it again; it was not delivered.",
}

const (
	onlyIfAllowed = "if `on_unknown` allows it"
	callerSends   = "no, by the caller"
	queueRetries  = "by the queue"
)

// gatewayReasons are the facts about reasons that the error tables of the providers do not have.
var gatewayReasons = map[string]reasonFacts{
	"APP_OVER_SHARE":           {"429", "throttled", callerSends, "Operator: raise `pool.size` or `pool.in_flight`, or the `weight` of the app."},
	"BROADCAST_EXPIRED":        {"", "expired", "no", ""},
	"BatchTooLarge":            {"", "refused", "no", "Send the rest in another batch."},
	"BodyIncomplete":           {"400", "refused", "no", "Send the rest in another batch."},
	"BodyTimeout":              {"408", "refused", "no", "Send the rest in another batch, and write without pauses."},
	"BodyTooLarge":             {"413", "refused", "no", "Send a smaller body. Operator: `limits.body` and `limits.batch_item`."},
	"ChannelsNotConfigured":    {"400", "refused", "no", "Operator: set `apns.manage_url`, because `apns.url` or `apns.endpoints` is set."},
	"DuplicateField":           {"400", "refused", "no", ""},
	"EnvironmentNotConfigured": {"400", "refused", "no", ""},
	"GATEWAY_FULL":             {"503", "unsent", callerSends, "Operator: see [SluiceOverloaded](../runbooks/overloaded.md)."},
	"GATE_CLOSED":              {"429", "throttled", queueRetries, "Operator: see [SluiceQuotaExhausted](../runbooks/quota-exhausted.md)."},
	"IN_DOUBT":                 {"504", "unknown", "no", ""},
	"IdempotencyKeyInUse":      {"409", "unsent", callerSends, "Wait for `retry_after`, then send it again with the same key."},
	"IdempotencyKeyReused":     {"422", "refused", "no", "Use a new key for a new body."},
	"Internal":                 {"500", "unknown", "no", "Operator: look for the `request_id` in the log, and report it."},
	"InvalidField":             {"400", "refused", "no", ""},
	"InvalidHeader":            {"400", "refused", "no", ""},
	"InvalidJSON":              {"400", "refused", "no", ""},
	"InvalidNotification":      {"400", "refused", "no", ""},
	"InvalidPayload":           {"400", "refused", "no", ""},
	"InvalidTarget":            {"400", "refused", "no", ""},
	"NOT_RECORDED":             {"503", "abandoned", queueRetries, "Operator: see [SluiceQueueNotWritable](../runbooks/queue-not-writable.md)."},
	"NOT_STORED":               {"", "cancelled", "no", "Send it again, also with the same key."},
	"MissingScope":             {"403", "refused", "no", "Use a key, token or certificate with the scope `send`."},
	"NeedsQueue":               {"501", "refused", "no", "Operator: set `queue.dir` or `queue.nats.url`."},
	"NoTopic":                  {"400", "refused", "no", "Operator: set `apns.topic`."},
	"NotRecognized":            {"400", "refused", "no", "Correct the name of the field, or omit `strict`."},
	"OVERLOADED":               {"503", "unsent", callerSends, "Send batches, or through the queue. Operator: see [SluiceOverloaded](../runbooks/overloaded.md)."},
	"PROVIDER_DOWN":            {"503", "unavailable", queueRetries, "Operator: see [SluiceProviderUnavailable](../runbooks/provider-unavailable.md)."},
	"PROVIDER_PANIC":           {"504", "unknown", onlyIfAllowed, "Operator: report the text in the log."},
	"PlatformNotConfigured":    {"400", "refused", "no", "Operator: add the block of the platform to the app."},
	"QUEUE_PANIC":              {"", "unknown", onlyIfAllowed, "Operator: report the text in the log."},
	"QueueFull":                {"503", "unsent", callerSends, "Operator: see [SluiceQueueNearlyFull](../runbooks/queue-nearly-full.md)."},
	"QueueUnavailable":         {"503", "unknown", callerSends, "Send it again with the same `Idempotency-Key`. Operator: see [SluiceQueueNotWritable](../runbooks/queue-not-writable.md)."},
	"ServiceNotAllowed":        {"400", "refused", "no", "Operator: add the host to `webpush.services` if you trust it."},
	"TASK_LOST":                {"", "unknown", "no", "If the receipt has no attempts, send it again. Operator: replace the disk, and run `gateway audit`."},
	"TASK_MISSING":             {"", "unknown", "no", "Send it again with a new key if it may be delivered twice."},
	"TOKEN_NOT_MINTED":         {"502", "unauthorized", "no", ""},
	"TTL_EXPIRED":              {"200", "expired", "no", ""},
	"TooFarAhead":              {"400", "refused", "no", "Use an earlier `send_at`. Operator: raise `history.max_age`."},
	"Unauthenticated":          {"401", "refused", "no", "Use a valid API key for the rest."},
	"UnknownField":             {"400", "refused", "no", ""},

	"LOCAL_INVALID_REQUEST":    {"", "unsent", "no", "Correct the headers of the notification."},
	"MALFORMED_RESPONSE":       {"", "unknown", onlyIfAllowed, "Operator: check for a proxy that changes responses."},
	"NO_ANSWER":                {"", "unknown", onlyIfAllowed, ""},
	"NO_ENDPOINT":              {"503", "unsent", queueRetries, "Operator: see [No endpoint can be reached](../operations.md#no-endpoint-can-be-reached)."},
	"RESPONSE_TOO_LARGE":       {"", "unavailable", "yes", "Operator: check for a proxy that answers instead of the provider."},
	"PROXY_FAILED":             {"503", "unsent", queueRetries, "Operator: check the [proxy](../operations.md#outbound-proxy)."},
	"TLS_SERVER_UNTRUSTED":     {"503", "unsent", queueRetries, "Operator: check for a proxy that intercepts TLS, and the clock; set `ca_file` only for mocks."},
	"TLS_CLIENT_CERT_REJECTED": {"503", "unsent", queueRetries, "Operator: replace the client certificate."},
	"UnknownReason":            {"any", "by the status", "by the status", "Look at `http` of the attempt, and report the response to the project."},
	"INTERMEDIARY_RESPONSE":    {"any", "unavailable", "yes", "Operator: let the firewall or proxy pass connections to the provider."},

	"OAUTH_INTERMEDIARY_RESPONSE": {"503", "unavailable", "yes", "Operator: let the firewall or proxy pass connections to the token endpoint."},
	"OAUTH_INVALID_TOKEN":         {"503", "unavailable", "yes", "Operator: see [SluiceTokenExchangeFailing](../runbooks/token-exchange-failing.md)."},
	"OAUTH_NO_SUBJECT_TOKEN":      {"503", "unavailable", "yes", "Operator: check the source that the credential file names."},
	"OAUTH_REFUSED":               {"502", "unauthorized", "no", ""},
	"OAUTH_THROTTLED":             {"429", "throttled", "yes", "Operator: look for other programs that use the same account."},
	"OAUTH_UNAVAILABLE":           {"503", "unavailable", "yes", "Operator: see [SluiceTokenExchangeFailing](../runbooks/token-exchange-failing.md)."},

	"ABORTED":                         {"409", "refused", "no", "Send it again."},
	"ACCESS_TOKEN_SCOPE_INSUFFICIENT": {"403", "unauthorized", "no", "Operator: grant the scope `firebase.messaging` or `cloud-platform`."},
	"ALREADY_EXISTS":                  {"409", "refused", "no", ""},
	"APNS_AUTH_ERROR":                 {"401", "unauthorized", "no", "Operator: upload a valid APNs key in the Firebase console."},
	"BILLING_DISABLED":                {"403", "unauthorized", "no", "Operator: set up billing for the project."},
	"CANCELLED":                       {"499", "refused", "no", "Send it again."},
	"CONSUMER_INVALID":                {"403", "unauthorized", "no", "Operator: check `fcm.project_id`."},
	"CONSUMER_SUSPENDED":              {"403", "unauthorized", "no", "Operator: ask Google."},
	"DATA_LOSS":                       {"500", "unavailable", "yes", ""},
	"DEADLINE_EXCEEDED":               {"504", "unavailable", "yes", ""},
	"FAILED_PRECONDITION":             {"400", "refused", "no", ""},
	"TOO_MANY_TOPICS":                 {"400", "refused", "no", ""},
	"OUT_OF_RANGE":                    {"400", "refused", "no", ""},
	"RESOURCE_EXHAUSTED":              {"429", "throttled", "yes", ""},
	"UNIMPLEMENTED":                   {"501", "unavailable", "yes", ""},
	"UNKNOWN":                         {"500", "unavailable", "yes", ""},

	"BadGateway":          {"502", "unavailable", "yes", ""},
	"BadRequest":          {"400", "refused", "no", ""},
	"GatewayTimeout":      {"504", "unavailable", "yes", ""},
	"Gone":                {"410", "unregistered", "no", ""},
	"NotFound":            {"404", "unregistered", "no", ""},
	"SubscriptionRemoved": {"", "unregistered", "no", ""},
	"Unauthorized":        {"401", "unauthorized", "no", ""},
}

// advice are texts for single reasons of the error tables.
var advice = map[string]string{
	"BadDeviceToken":              "Set the [environment](../live-activities.md#production-and-sandbox) of the token, or `learn_environment`. Delete the token only if both environments refuse it.",
	"DeviceTokenNotForTopic":      "Send the token to the app that it comes from. Operator: check `apns.topic`.",
	"BadTopic":                    "Operator: check `apns.topic`.",
	"MissingTopic":                "Operator: set `apns.topic`.",
	"TopicDisallowed":             "Operator: check that the key or certificate is for this bundle ID.",
	"ExpiredProviderToken":        "The gateway renews the token once. If it stays: operator, check the clock.",
	"InvalidProviderToken":        "Operator: compare `key_id` and `team_id` with the developer account, and check that the key is not revoked.",
	"BadEnvironmentKeyIdInToken":  "Operator: create a key for this environment.",
	"BadEnvironmentKeyInToken":    "Operator: create a key for this environment.",
	"TooManyProviderTokenUpdates": "Operator: give each group of gateways a key of its own ([SluiceLimitedByProvider](../runbooks/limited-by-provider.md)).",
	"TooManyRequests":             "Send less to this device.",
	"CannotCreateChannelConfig":   "Delete channels that are not needed.",
	"ChannelNotRegistered":        "Create the channel, or set the environment that it belongs to.",
	"FeatureNotEnabled":           "Operator: enable the broadcast capability of the bundle ID.",
	"ExpiredToken":                "Delete the token, unless the app has registered it again after `dead_since`.",
	"Unregistered":                "Delete the token, unless the app has registered it again after `dead_since`.",
	"UNREGISTERED":                "Delete the registration. An app that registers again uploads a Firebase installation ID again.",
	"SENDER_ID_MISMATCH":          "Send the token to the project that it comes from. Operator: check the service account.",
	"INVALID_ARGUMENT":            "`detail` and `forget_token` say whether the token or the message is invalid.",
	"THIRD_PARTY_AUTH_ERROR":      "Operator: upload a valid APNs key in the Firebase console.",
	"SERVICE_DISABLED":            "Operator: enable the Firebase Cloud Messaging API in the Google Cloud console.",
	"PERMISSION_DENIED":           "Operator: grant the role Firebase Cloud Messaging API Admin, and check `project_id`.",
	"NOT_FOUND":                   "Operator: check `fcm.project_id`. In calls to topics: delete the registration.",
	"TOO_MANY_TOPICS":             "Unsubscribe the registration from other topics.",
	"QUOTA_EXCEEDED":              "Operator: set `quota.fcm` to what Google grants.",
	"RATE_LIMIT_EXCEEDED":         "Operator: set `quota.fcm` to what Google grants.",
	"invalid_grant":               "Operator: check the clock, and that the key of the service account exists.",
	"appthrottled":                "Send less to Windows.",
	"VapidPkHashMismatch":         "Delete the subscription, and let the browser subscribe with the present key.",
	"vapid-mismatch":              "Delete the subscription, and let the browser subscribe with the present key.",
	"PayloadTooLarge":             "Shorten the notification: 4,096 bytes, 5,120 for VoIP and broadcasts.",
	"PayloadEmpty":                "Set a title, a body, a badge, a sound or data.",
	"DNS_FAILURE":                 "Operator: check the name servers (`dns.servers`).",
	"TopicMismatch":               "Operator: use a certificate for this bundle ID.",
	"BadPath":                     "Operator: report it.",
	"MethodNotAllowed":            "Operator: report it.",
	"ENHANCE_YOUR_CALM":           "Operator: report it; the gateway sent too many frames.",
}

// factsOf returns the facts about a reason from the error tables of the providers.
func factsOf(t *testing.T) map[string]reasonFacts {
	t.Helper()
	text, err := os.ReadFile("../../providers/testdata/provider-errors.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		providertest.ErrorCase
		Precondition string `json:"retry_precondition"`
	}
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	type sets struct{ statuses, verdicts, retried map[string]bool }
	found := map[string]sets{}
	for _, row := range rows {
		if row.Code == "" || row.Code == "*" {
			continue
		}
		f, ok := found[row.Code]
		if !ok {
			f = sets{map[string]bool{}, map[string]bool{}, map[string]bool{}}
			found[row.Code] = f
		}
		verdict, retried := "", "no"
		switch {
		case row.Provider != "transport":
			verdict = providertest.VerdictFor(row.Class).String()
			f.statuses[fmt.Sprint(row.Status)] = true
		case row.SkipReason() != "", row.Code == "LOCAL_QUEUE_FULL": // there is no attempt
			verdict = push.Unsent.String()
			f.statuses["503"] = true
		default:
			_, v := row.TransportError()
			verdict = v.String()
		}
		switch {
		case row.Retryable && verdict == "unknown":
			retried = onlyIfAllowed
		case row.Retryable && verdict == "unsent" && f.statuses["503"]:
			retried = queueRetries
		case row.Retryable && verdict == "unauthorized":
			retried = "once"
		case row.Retryable:
			retried = "yes"
		}
		f.verdicts[verdict], f.retried[retried] = true, true
	}
	facts := maps.Clone(gatewayReasons)
	join := func(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), ", ") }
	for reason, f := range found {
		if _, ok := facts[reason]; !ok {
			facts[reason] = reasonFacts{join(f.statuses), join(f.verdicts), join(f.retried), advice[reason]}
		}
	}
	return facts
}

const reasonPageStart = `# Reasons

Each receipt, attempt and event has a ` + "`" + `status` + "`" + ` and, unless it was accepted, a ` + "`" + `reason` + "`" + `. Decide by
the status: later versions can add reasons.

- **Status** in the tables is the HTTP status of the provider's response. In the tables of the
  gateway and the connection, it is that of the API's response to a single call. It is empty if
  there is no such response.
- **Verdict** is the result of the attempt. In a receipt, ` + "`" + `unsent` + "`" + ` and ` + "`" + `abandoned` + "`" + ` become
  ` + "`" + `unavailable` + "`" + `.
- **Retried** says whether the gateway makes another attempt, within ` + "`" + `retry.attempts` + "`" + `, the retry
  budget and the time of the send. The queue tries notifications that ended as ` + "`" + `throttled` + "`" + ` or
  ` + "`" + `unavailable` + "`" + ` again, whatever the reason, until their ` + "`" + `ttl` + "`" + ` or ` + "`" + `queue.retry_for` + "`" + ` ends.

`

// reasonOrigins are the tables of the page, by the column "from" of the API document.
var reasonOrigins = []struct{ from, title, text string }{
	{"gateway", "Of the gateway", "The gateway decided without an attempt, or around it."},
	{"connection", "Of the connection", "There is no response of the provider. An attempt with the verdict `unsent` provably did not reach it."},
	{"any provider", "Of several providers", ""},
	{"APNs", "Of APNs", ""},
	{"FCM", "Of FCM", ""},
	{"token endpoint", "Of Google's token endpoint", "The status is that of the API's response to a single call for those in capitals."},
	{"Web Push", "Of Web Push services", ""},
}

var reasonRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| (.+) \\|$")

// TestReasonPageIsUpToDate compares docs/reference/reasons.md with the API document and the error
// tables. After a change, make reference writes the page.
func TestReasonPageIsUpToDate(t *testing.T) {
	facts := factsOf(t)
	description := openAPIDoc(t).path(t, "components", "schemas", "Reason")["description"].(string)
	rows := reasonRow.FindAllStringSubmatch(description, -1)
	var b strings.Builder
	b.WriteString(reasonPageStart)
	count := 0
	for _, origin := range reasonOrigins {
		fmt.Fprintf(&b, "## %s\n\n", origin.title)
		if origin.text != "" {
			fmt.Fprintf(&b, "%s\n\n", wrapText(origin.text))
		}
		b.WriteString("| reason | status | verdict | retried | meaning | what to do |\n|---|---|---|---|---|---|\n")
		for _, row := range rows {
			reason, from, meaning := row[1], row[2], row[3]
			if from != origin.from {
				continue
			}
			count++
			f, ok := facts[reason]
			if !ok {
				t.Errorf("%s: add its status, verdict and retry to gatewayReasons, or a row to provider-errors.json", reason)
			}
			if f.advice == "" {
				f.advice = adviceFor[strings.Split(f.verdict, ", ")[0]]
			}
			if f.advice == "" || f.verdict == "" {
				t.Errorf("%s: no advice for the verdict %q", reason, f.verdict)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", reason, f.status, f.verdict, f.retried, meaning, f.advice)
		}
		b.WriteString("\n")
	}
	if count != len(rows) {
		t.Errorf("%d of %d reasons are in a table: add their origin", count, len(rows))
	}
	for reason := range advice {
		if facts[reason].verdict == "" {
			t.Errorf("%s has an advice and is no reason", reason)
		}
	}
	comparePage(t, "../../docs/reference/reasons.md", strings.TrimSuffix(b.String(), "\n"))
}

// comparePage compares a generated page with its file, and writes the file with UPDATE=1.
func comparePage(t *testing.T, file, want string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != want {
		t.Errorf("%s does not match the code, update it with: make reference (%v)", file, err)
	}
}

// wrapText breaks a paragraph into lines of up to 100 columns.
func wrapText(text string) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		width := len([]rune(word))
		switch {
		case column > 0 && column+1+width > 100:
			b.WriteByte('\n')
			column = 0
		case column > 0:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += width
	}
	return b.String()
}
