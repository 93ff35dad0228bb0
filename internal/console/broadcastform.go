// SPDX-License-Identifier: Apache-2.0

package console

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// broadcastFields are the inputs of the form of a broadcast, by the path of the field of the definition that
// each one sets. Numbers are sent as numbers.
var broadcastFields = map[string]string{
	"name": "name", "language": "language", "title": "message.title", "body": "message.body", "ttl": "message.ttl", "image": "message.image",
	"apns_title": "message.platforms.apns.title", "apns_body": "message.platforms.apns.body", "fcm_title": "message.platforms.fcm.title",
	"fcm_body": "message.platforms.fcm.body", "webpush_title": "message.platforms.webpush.title", "webpush_body": "message.platforms.webpush.body",
	"platform": "audience.platform", "start_at": "schedule.start_at", "local_time": "schedule.local_time", "time_zone": "schedule.time_zone",
	"expires_at": "schedule.expires_at", "quiet_from": "schedule.quiet_hours.from", "quiet_to": "schedule.quiet_hours.to", "per_minute": "rate.per_minute",
	"ramp_up": "rate.ramp_up", "canary": "canary.share", "canary_wait": "canary.wait", "refused": "pause_if.refused", "unregistered": "pause_if.unregistered",
	"recall_title": "recall.message.title", "recall_body": "recall.message.body", "recall_rate": "recall.rate.per_minute",
}

// broadcastForm has the values of the inputs.
type broadcastForm map[string]string

// broadcastFormData is the data of the page with the form.
type broadcastFormData struct {
	Apps      []appPlatforms // in which the viewer may create broadcasts
	App       string
	Platforms []push.Platform
	Form      broadcastForm
	Error     string
	Preview   []messagePreview
	Problem   string // of the preview
}

// messagePreview is how a message looks for a platform, variant and language, and the request that leaves.
type messagePreview struct {
	broadcast.Preview
	previewView
}

// definition returns the definition in JSON.
func (f broadcastForm) definition() ([]byte, *fieldProblem) {
	all := map[string]any{}
	for input, path := range broadcastFields {
		if f[input] != "" {
			var value any = f[input]
			if strings.HasSuffix(path, "per_minute") {
				number, err := strconv.Atoi(f[input])
				if err != nil {
					return nil, &fieldProblem{path, "must be a whole number"}
				}
				value = number
			}
			set(all, path, value)
		}
	}
	if kind := f["kind"]; kind != "" && kind != "upload" {
		set(all, "audience."+kind, f["target"])
	}
	if f["more"] != "" {
		var more map[string]any
		if json.Unmarshal([]byte(f["more"]), &more) != nil {
			return nil, &fieldProblem{"message", `must be a JSON object, such as {"languages": {"de": {"title": "Hallo"}}}`}
		}
		merge(at(all, "message"), more)
	}
	text, err := json.Marshal(all, json.Deterministic(true))
	if err != nil {
		return nil, &fieldProblem{"message", "must be valid JSON"}
	}
	return text, nil
}

// at returns the object with this name, which it adds if there is none.
func at(object map[string]any, name string) map[string]any {
	inner, ok := object[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		object[name] = inner
	}
	return inner
}

// set sets the value of a path such as message.title.
func set(object map[string]any, path string, value any) {
	first, rest, nested := strings.Cut(path, ".")
	if !nested {
		object[first] = value
		return
	}
	set(at(object, first), rest, value)
}

// merge adds the members of an object to another one.
func merge(to, from map[string]any) {
	for name, value := range from {
		inner, isObject := value.(map[string]any)
		if _, merged := to[name].(map[string]any); isObject && merged {
			merge(at(to, name), inner)
			continue
		}
		to[name] = value
	}
}

// formData returns the data of the form.
func (c *Console) formData(v *viewer, app string, f broadcastForm) broadcastFormData {
	d := broadcastFormData{App: app, Form: f}
	for _, app := range v.Apps(identity.Broadcasts) {
		d.Apps = append(d.Apps, appPlatforms{app, c.cfg.Platforms(app)})
	}
	i := slices.IndexFunc(d.Apps, func(a appPlatforms) bool { return a.Name == app })
	if i < 0 {
		i, d.App = 0, ""
	}
	if len(d.Apps) > 0 {
		d.App, d.Platforms = d.Apps[i].Name, d.Apps[i].Platforms
	}
	d.Preview, d.Problem = c.previewForm(d.App, f)
	return d
}

func (c *Console) showBroadcastForm(w http.ResponseWriter, r *http.Request, v *viewer) {
	f := broadcastForm{"title": "Hello {{name|there}}", "body": "This is a test."}
	c.page(w, r, v, "broadcast-form", "New broadcast", c.formData(v, r.URL.Query().Get("app"), f))
}

func parseBroadcastForm(r *http.Request) broadcastForm {
	f := broadcastForm{}
	for _, input := range []string{"kind", "target", "more"} {
		f[input] = strings.TrimSpace(r.PostFormValue(input))
	}
	for input := range broadcastFields {
		f[input] = strings.TrimSpace(r.PostFormValue(input))
	}
	return f
}

// previewBroadcast responds with the preview of the form.
func (c *Console) previewBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.renderPart(w, "broadcast-previews", c.formData(v, r.PostFormValue("app"), parseBroadcastForm(r)))
}

// previewForm returns the messages of the form. They do not have the collapse key of the broadcast yet.
func (c *Console) previewForm(app string, f broadcastForm) ([]messagePreview, string) {
	text, problem := f.definition()
	if problem != nil {
		return nil, problem.Field + " " + problem.Text
	}
	var d struct {
		Message  jsontext.Value `json:"message"`
		Language string         `json:"language"`
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, "The message is invalid."
	}
	content, err := audience.Compile(&audience.Definition{Language: d.Language, Message: d.Message})
	if err != nil {
		if e, ok := errors.AsType[*strictjson.Error](err); ok {
			return nil, e.Field + " " + strings.TrimPrefix(e.Detail, e.Field+": ")
		}
		return nil, err.Error()
	}
	var previews []broadcast.Preview
	for s, n := range content.Samples() {
		n.Platform = s.Platform
		previews = append(previews, broadcast.Preview{Platform: s.Platform, Variant: s.Variant, Language: s.Language, Missing: s.Missing, Notification: n})
	}
	return c.messagePreviews(app, previews), ""
}

// exampleSubscription is a valid target for a preview.
var exampleSubscription = newExampleSubscription()

func newExampleSubscription() *push.Subscription {
	s := &push.Subscription{Endpoint: "https://push.example.com/subscription"}
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err == nil {
		s.Keys.P256dh, s.Keys.Auth = base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()), base64.RawURLEncoding.EncodeToString(make([]byte, 16))
	}
	return s
}

// messagePreviews returns previews for the platforms of an app.
func (c *Console) messagePreviews(app string, previews []broadcast.Preview) (shown []messagePreview) {
	platforms := c.cfg.Platforms(app)
	for _, p := range previews {
		if !slices.Contains(platforms, p.Platform) || len(shown) == maxShown {
			continue
		}
		n := p.Notification
		n.App, n.Platform = app, p.Platform
		if n.Token = exampleTokens[p.Platform]; p.Platform == push.WebPush {
			n.Subscription = exampleSubscription
		}
		m := messagePreview{Preview: p, previewView: previewView{Form: sendForm{App: app, Platform: string(p.Platform), Title: n.Title, Subtitle: n.Subtitle, Body: n.Body, Image: n.Image}}}
		m.Silent = n.Title == "" && n.Subtitle == "" && n.Body == "" && n.APNs == nil && n.FCM == nil && n.WebPush == nil
		c.translate(n, &m.previewView)
		shown = append(shown, m)
	}
	return shown
}

// createBroadcast creates a broadcast from the form, and shows it.
func (c *Console) createBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	app, f := r.PostFormValue("app"), parseBroadcastForm(r)
	data := c.formData(v, app, f)
	text, problem := f.definition()
	if problem != nil {
		data.Error = problem.Field + " " + problem.Text
		c.page(w, r, v, "broadcast-form", "New broadcast", data)
		return
	}
	response := c.call(r.Context(), v, http.MethodPost, broadcastsPath(app), text)
	var created broadcast.View
	if response.Status != http.StatusCreated || json.Unmarshal(response.body.Bytes(), &created) != nil {
		data.Error = response.problem().text()
		c.page(w, r, v, "broadcast-form", "New broadcast", data)
		return
	}
	c.redirectToBroadcast(w, r, app, created.ID)
}

// Kinds are the kinds of audiences of the form.
func (broadcastFormData) Kinds() []string { return []string{"upload", "topic", "condition", "channel"} }
