// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// Request is what a provider gets for a notification, without the credential.
type Request struct {
	Method, URL string
	Header      []HeaderField
	Body        []byte
	// Plaintext is what the body contains if it is encrypted; nil if it is not.
	Plaintext []byte
	// Credential says how the request is authorized.
	Credential string
}

// HeaderField is one header field of a Request.
type HeaderField struct{ Name, Value string }

// sendForm is what the page that sends a test has in its form.
type sendForm struct {
	App, Platform, Kind, Target                string
	Title, Subtitle, Body, Image, Badge, Sound string
	Data, Priority, TTL, CollapseKey, Block    string
}

// fieldFor maps fields of a notification to those of the form, for error messages.
var fieldFor = map[string]string{
	"token": "target", "topic": "target", "condition": "target", "channel": "target", "installation": "target", "subscription": "target", "collapse_key": "collapse",
	"apns": "block", "fcm": "block", "webpush": "block",
}

// sendData is the data of the page that sends a test.
type sendData struct {
	Form    sendForm
	Apps    []appPlatforms // to which the viewer may send
	App     appPlatforms   // that is selected
	Kinds   []string       // of targets that the platform has
	Preview *previewView
	Sent    *sentView
}

type appPlatforms struct {
	Name      string
	Platforms []push.Platform
}

// Priorities are the values of the form.
func (sendData) Priorities() []string {
	return []string{string(push.PriorityHigh), string(push.PriorityNormal), string(push.PriorityLow)}
}

// BlockExample is an example of the provider-specific block.
func (d sendData) BlockExample() string {
	switch push.Platform(d.Form.Platform) {
	case push.APNs:
		return `{"headers": {"apns-push-type": "alert"}, "payload": {"aps": {"alert": "Hello"}}}`
	case push.FCM:
		return `{"message": {"android": {"notification": {"channel_id": "news"}}}}`
	default:
		return `{"headers": {"Urgency": "high"}, "payload": "any text"}`
	}
}

// fieldProblem is an error about a field of the form.
type fieldProblem struct {
	Field string // name of the input
	Text  string
}

// previewView shows how a notification looks, and the request that leaves.
type previewView struct {
	Form     sendForm
	Error    *fieldProblem
	Request  *Request
	Body     string
	Plain    string
	Size     int
	Warnings []push.Warning
	Silent   bool // nothing is displayed
}

// sentView is the result of a send.
type sentView struct {
	Error   *fieldProblem
	ID      string
	Status  push.Status
	Class   string
	Reason  string
	Detail  string
	History bool
	JSON    string
}

// targetKinds are the kinds of targets by platform.
var targetKinds = map[push.Platform][]string{
	push.APNs: {"token", "channel"}, push.FCM: {"token", "topic", "condition", "installation"}, push.WebPush: {"subscription"},
}

func (c *Console) showSend(w http.ResponseWriter, r *http.Request, v *viewer) {
	query := r.URL.Query()
	f := sendForm{App: query.Get("app"), Platform: query.Get("platform"), Title: "Hello", Body: "This is a test."}
	c.page(w, r, v, "send", "Send a test", c.sendData(v, f))
}

// sendData completes the form with what the app has.
func (c *Console) sendData(v *viewer, f sendForm) sendData {
	d := sendData{Form: f}
	for _, app := range v.Apps(identity.Send | identity.Broadcasts) {
		d.Apps = append(d.Apps, appPlatforms{app, c.cfg.Platforms(app)})
	}
	if i := slices.IndexFunc(d.Apps, func(a appPlatforms) bool { return a.Name == f.App }); i >= 0 {
		d.App = d.Apps[i]
	} else if len(d.Apps) > 0 {
		d.App = d.Apps[0]
	}
	d.Form.App = d.App.Name
	if !slices.Contains(d.App.Platforms, push.Platform(f.Platform)) && len(d.App.Platforms) > 0 {
		d.Form.Platform = string(d.App.Platforms[0])
	}
	d.Kinds = targetKinds[push.Platform(d.Form.Platform)]
	if !slices.Contains(d.Kinds, f.Kind) && len(d.Kinds) > 0 {
		d.Form.Kind = d.Kinds[0]
	}
	d.Preview = c.previewOf(v, d.Form)
	return d
}

func parseSendForm(r *http.Request) sendForm {
	get := func(name string) string { return strings.TrimSpace(r.PostFormValue(name)) }
	return sendForm{
		App: get("app"), Platform: get("platform"), Kind: get("kind"), Target: get("target"), Title: get("title"), Subtitle: get("subtitle"), Body: get("body"),
		Image: get("image"), Badge: get("badge"), Sound: get("sound"), Data: get("data"), Priority: get("priority"), TTL: get("ttl"), CollapseKey: get("collapse"), Block: get("block"),
	}
}

// notification returns the notification of the form.
func (f *sendForm) notification() (*push.Notification, *fieldProblem) {
	n := &push.Notification{
		App: f.App, Title: f.Title, Subtitle: f.Subtitle, Body: f.Body, Image: f.Image, Sound: f.Sound, CollapseKey: f.CollapseKey, Priority: push.Priority(f.Priority),
	}
	if err := n.Platform.UnmarshalText([]byte(f.Platform)); err != nil {
		return nil, &fieldProblem{"platform", err.Error()}
	}
	if p := f.setTarget(&n.Target); p != nil {
		return nil, p
	}
	if f.Badge != "" {
		badge, err := strconv.Atoi(f.Badge)
		if err != nil {
			return nil, &fieldProblem{"badge", "must be a whole number"}
		}
		n.Badge = &badge
	}
	if f.TTL != "" {
		n.TTL = new(push.Duration)
		if err := n.TTL.UnmarshalText([]byte(f.TTL)); err != nil {
			return nil, &fieldProblem{"ttl", err.Error()}
		}
	}
	for line := range strings.Lines(f.Data) {
		name, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if !found && name != "" {
			return nil, &fieldProblem{"data", "each line must be name=value"}
		}
		if name != "" {
			if n.Data == nil {
				n.Data = map[string]string{}
			}
			n.Data[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	if p := f.setBlock(n); p != nil {
		return nil, p
	}
	return n, nil
}

// exampleTokens are valid targets for a preview without a target.
var exampleTokens = map[push.Platform]string{push.APNs: strings.Repeat("0", 64), push.FCM: "example:" + strings.Repeat("A", 134)}

func (f *sendForm) setTarget(t *push.Target) *fieldProblem {
	switch f.Kind {
	case "token":
		t.Token = f.Target
	case "topic":
		t.Topic = f.Target
	case "condition":
		t.Condition = f.Target
	case "channel":
		t.Channel = f.Target
	case "installation":
		t.Installation = f.Target
	case "subscription":
		t.Subscription = new(push.Subscription)
		if f.Target != "" && json.Unmarshal([]byte(f.Target), t.Subscription) != nil {
			return &fieldProblem{"target", "must be the JSON of a PushSubscription: {\"endpoint\": …, \"keys\": {\"p256dh\": …, \"auth\": …}}"}
		}
	default:
		return &fieldProblem{"kind", "must be a kind of target of the platform"}
	}
	return nil
}

// setBlock sets the provider-specific block.
func (f *sendForm) setBlock(n *push.Notification) *fieldProblem {
	if f.Block == "" {
		return nil
	}
	var block any
	switch n.Platform {
	case push.APNs:
		n.APNs = new(push.APNsBlock)
		block = n.APNs
	case push.FCM:
		n.FCM = new(push.FCMBlock)
		block = n.FCM
	default:
		n.WebPush = new(push.WebPushBlock)
		block = n.WebPush
	}
	in := json.NewDecoder(strings.NewReader(f.Block))
	in.DisallowUnknownFields()
	if err := in.Decode(block); err != nil {
		known := map[push.Platform]string{push.APNs: "headers, payload and environment", push.FCM: "message and validate_only", push.WebPush: "headers, payload, notification, declarative and mutable"}[n.Platform]
		return &fieldProblem{"block", "must be a JSON object with the members " + known}
	}
	return nil
}

// preview responds with the preview of the form. It sends nothing.
func (c *Console) preview(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.renderPart(w, "send-preview", c.sendData(v, parseSendForm(r)))
}

func (c *Console) previewOf(v *viewer, f sendForm) *previewView {
	p := &previewView{Form: f}
	if !v.may(identity.Send|identity.Broadcasts, f.App) {
		p.Error = &fieldProblem{"app", "your key may not send in an app"}
		return p
	}
	n, problem := f.notification()
	if problem != nil {
		p.Error = problem
		return p
	}
	p.Silent = n.Title == "" && n.Subtitle == "" && n.Body == "" && f.Block == ""
	if f.Target == "" && n.Platform == push.WebPush {
		p.Error = &fieldProblem{"target", "enter a subscription: the body is encrypted for it"}
		return p
	}
	if f.Target == "" && f.Kind == "token" {
		n.Token = exampleTokens[n.Platform]
	}
	c.translate(n, p)
	return p
}

// translate adds the request of a notification to its preview.
func (c *Console) translate(n *push.Notification, p *previewView) {
	n.ID = "00000000-0000-7000-8000-000000000000"
	request, err := c.cfg.Translate(n)
	if err != nil {
		p.Error = translateProblem(err)
		return
	}
	p.Request, p.Warnings, p.Size = request, n.Warnings, len(request.Body)
	secret := n.Key()
	request.URL = redact(request.URL, secret)
	if request.Plaintext != nil {
		p.Plain, p.Size = indentJSON(request.Plaintext), len(request.Plaintext)
	} else {
		p.Body = redact(indentJSON(request.Body), secret)
	}
}

// translateProblem returns the problem of an invalid notification.
func translateProblem(err error) *fieldProblem {
	field, ok := errors.AsType[*push.FieldError](err)
	if !ok {
		return &fieldProblem{"", "The notification cannot be translated."}
	}
	first, _, _ := strings.Cut(field.Field, ".")
	name := first
	if mapped, ok := fieldFor[first]; ok {
		name = mapped
	}
	return &fieldProblem{name, field.Error()}
}

// send sends the notification of the form through the API.
func (c *Console) send(w http.ResponseWriter, r *http.Request, v *viewer) {
	f := parseSendForm(r)
	data := c.sendData(v, f)
	data.Form = f
	data.Sent = c.sent(r, v, f)
	if isPart(r) {
		c.renderPart(w, "send-result", data)
		return
	}
	c.page(w, r, v, "send", "Send a test", data)
}

func (c *Console) sent(r *http.Request, v *viewer, f sendForm) *sentView {
	n, problem := f.notification()
	if problem != nil {
		return &sentView{Error: problem}
	}
	body, err := json.Marshal(n)
	if err != nil {
		return &sentView{Error: &fieldProblem{"block", "must be valid JSON"}}
	}
	response := c.call(r.Context(), v, http.MethodPost, "/v1/apps/"+url.PathEscape(f.App)+"/notifications", body)
	var receipt struct {
		ID     string      `json:"id"`
		Status push.Status `json:"status"`
		Reason string      `json:"reason"`
		Detail string      `json:"detail"`
		// Receipt is that of a problem document.
		Receipt json.RawMessage `json:"receipt"`
	}
	text := response.body.Bytes()
	if json.Unmarshal(text, &receipt) == nil && len(receipt.Receipt) > 0 {
		text = receipt.Receipt
		_ = json.Unmarshal(text, &receipt) // it was part of valid JSON
	}
	if receipt.ID == "" {
		p := response.problem()
		first, _, _ := strings.Cut(p.Field, ".")
		if mapped, ok := fieldFor[first]; ok {
			first = mapped
		}
		return &sentView{Error: &fieldProblem{first, strings.TrimSpace(fmt.Sprintf("%s. %s", p.Title, p.Detail))}}
	}
	return &sentView{
		ID: receipt.ID, Status: receipt.Status, Class: statusClass(receipt.Status), Reason: receipt.Reason, Detail: receipt.Detail,
		History: c.cfg.History != nil, JSON: indentJSON(text),
	}
}

// indentJSON formats a JSON text, and returns any other text unchanged.
func indentJSON(text []byte) string {
	var out bytes.Buffer
	if json.Indent(&out, text, "", "  ") != nil {
		return string(text)
	}
	return out.String()
}

// redact replaces a secret in a text by its last characters.
func redact(text, secret string) string {
	if len(secret) < 8 {
		return text
	}
	return strings.ReplaceAll(text, secret, shorten(secret))
}

// shorten returns the last characters of a secret. A whole one is never shown.
func shorten(secret string) string {
	if len(secret) < 16 {
		return "…"
	}
	return "…" + secret[len(secret)-6:]
}
