// SPDX-License-Identifier: Apache-2.0

package console

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// broadcastFormData is the data of the page with the form.
type broadcastFormData struct {
	Apps      []appPlatforms // in which the viewer may create broadcasts
	App       string
	Platforms []push.Platform
	Form      *broadcastForm
	ID        string // of the broadcast that is edited
	Tag       string // its ETag when the form was opened
	NewTag    string // its ETag now, if it has changed since then
	Previews  previewList
	Problem   string // of the preview
}

// Kinds are the kinds of audiences of the form.
func (broadcastFormData) Kinds() any { return audienceKinds }

// Title is that of the page.
func (d broadcastFormData) Title() string {
	if d.ID == "" {
		return "New broadcast"
	}
	return "Edit broadcast"
}

// formData returns the data of the form.
func (c *Console) formData(r *http.Request, v *viewer, app string, f *broadcastForm) broadcastFormData {
	d := broadcastFormData{App: app, Form: f, ID: r.PathValue("id")}
	for _, app := range v.Apps(identity.Broadcasts) {
		d.Apps = append(d.Apps, appPlatforms{app, c.cfg.Platforms(app)})
	}
	i := slices.IndexFunc(d.Apps, func(a appPlatforms) bool { return a.Name == app })
	if i < 0 && d.ID != "" {
		d.Apps = nil // not the broadcast of another app
	}
	if len(d.Apps) > 0 {
		d.App, d.Platforms = d.Apps[max(i, 0)].Name, d.Apps[max(i, 0)].Platforms
	}
	if p := push.Platform(f.values["platform"]); p != "" && d.ID != "" && !slices.Contains(d.Platforms, p) {
		d.Platforms = append(slices.Clone(d.Platforms), p) // the app does not have it any more
	}
	d.Previews, d.Problem = c.previewForm(r, d.App, f)
	return d
}

func (c *Console) showBroadcastForm(w http.ResponseWriter, r *http.Request, v *viewer) {
	f := &broadcastForm{values: map[string]string{"title": "Hello {{name|there}}", "body": "This is a test."}}
	c.showForm(w, r, v, c.formData(r, v, r.URL.Query().Get("app"), f))
}

func (c *Console) showForm(w http.ResponseWriter, r *http.Request, v *viewer, data broadcastFormData) {
	c.page(w, r, v, "broadcast-form", data.Title(), data)
}

// changeBroadcastForm responds with the form after a variant or a language was added or removed, or the app
// was changed.
func (c *Console) changeBroadcastForm(w http.ResponseWriter, r *http.Request, v *viewer) {
	f := parseBroadcastForm(r)
	f.change(r.PostFormValue("do"))
	r.SetPathValue("id", r.PostFormValue("id"))
	data := c.formData(r, v, r.PostFormValue("app"), f)
	data.Tag, data.NewTag = r.PostFormValue("tag"), r.PostFormValue("new_tag")
	c.renderPart(w, "broadcast-form-result", data)
}

// previewBroadcastForm responds with the preview of the form.
func (c *Console) previewBroadcastForm(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.renderPart(w, "broadcast-previews", c.formData(r, v, r.PostFormValue("app"), parseBroadcastForm(r)))
}

// previewForm returns the messages of the form. They do not have the collapse key of the broadcast yet.
func (c *Console) previewForm(r *http.Request, app string, f *broadcastForm) (previewList, string) {
	text, problem := f.definition()
	if problem != nil {
		g := *f
		g.Problem = problem
		return previewList{}, g.ErrorText()
	}
	var d struct {
		Message  jsontext.Value     `json:"message"`
		Variants []audience.Variant `json:"variants"`
		Language string             `json:"language"`
		Audience broadcast.Audience `json:"audience"`
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return previewList{}, "The message is invalid."
	}
	content, err := audience.Compile(&audience.Definition{Language: d.Language, Message: d.Message, Variants: d.Variants})
	if err != nil {
		if e, ok := errors.AsType[*strictjson.Error](err); ok {
			g := *f
			g.Problem = f.problemAt(e.Field, strings.TrimPrefix(e.Detail, e.Field+": "))
			return previewList{}, g.ErrorText()
		}
		return previewList{}, err.Error()
	}
	var previews []broadcast.Preview
	for s, n := range content.Samples() {
		n.Platform = s.Platform
		previews = append(previews, broadcast.Preview{Platform: s.Platform, Variant: s.Variant, Language: s.Language, Missing: s.Missing, Notification: n})
	}
	return c.messagePreviews(r, app, &d.Audience, previews), ""
}

// createBroadcast creates a broadcast from the form, and shows it.
func (c *Console) createBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	app, f := r.PostFormValue("app"), parseBroadcastForm(r)
	text, problem := f.definition()
	if problem == nil {
		response := c.call(r.Context(), v, http.MethodPost, broadcastsPath(app), text)
		var created broadcast.View
		if response.Status == http.StatusCreated && json.Unmarshal(response.body.Bytes(), &created) == nil {
			c.redirectToBroadcast(w, r, app, created.ID)
			return
		}
		f.refused(response)
	} else {
		f.Problem = problem
	}
	c.showForm(w, r, v, c.formData(r, v, app, f))
}

// showEdit shows the form with the definition of a broadcast.
func (c *Console) showEdit(w http.ResponseWriter, r *http.Request, v *viewer) {
	response := c.call(r.Context(), v, http.MethodGet, broadcastPath(r), nil)
	f, err := formOf(response.body.Bytes())
	if response.Status != http.StatusOK || err != nil {
		c.showBroadcastWith(w, r, v, "broadcast", "")
		return
	}
	data := c.formData(r, v, r.URL.Query().Get("app"), f)
	data.Tag = response.header.Get("ETag")
	c.showForm(w, r, v, data)
}

// saveBroadcast replaces the definition of a broadcast by that of the form, unless it has changed since the
// form was opened.
func (c *Console) saveBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	f, tag := parseBroadcastForm(r), r.PostFormValue("tag")
	if r.PostFormValue("do") == "overwrite" {
		tag = r.PostFormValue("new_tag")
	}
	newTag := ""
	text, problem := f.definition()
	if problem == nil {
		// Without an ETag, the form is not that of a version.
		response := c.call(r.Context(), v, http.MethodPut, broadcastPath(r), text, "If-Match", orNone(tag))
		var saved broadcast.View
		if response.Status == http.StatusOK && json.Unmarshal(response.body.Bytes(), &saved) == nil {
			if saved.Upload != nil && saved.Upload.Complete {
				// If it fails, the page offers it again.
				_ = c.call(r.Context(), v, http.MethodPost, broadcastPath(r, string(broadcast.Validate)), nil)
			}
			c.redirectToBroadcast(w, r, r.URL.Query().Get("app"), r.PathValue("id"))
			return
		}
		if f.refused(response); response.Status == http.StatusPreconditionFailed {
			newTag = c.call(r.Context(), v, http.MethodGet, broadcastPath(r), nil).header.Get("ETag")
			f.Problem.Text = "Somebody has changed this broadcast since you opened it. Your changes are not saved yet."
		}
	} else {
		f.Problem = problem
	}
	data := c.formData(r, v, r.URL.Query().Get("app"), f)
	data.Tag, data.NewTag = r.PostFormValue("tag"), newTag
	c.showForm(w, r, v, data)
}

func orNone(tag string) string {
	if tag == "" {
		return `"none"`
	}
	return tag
}

// messagePreview is how a message looks for a platform, variant and language, and the request that leaves.
type messagePreview struct {
	Platform          push.Platform
	Variant, Language string
	Missing           []string
	previewView
}

// previewList are previews with a filter.
type previewList struct {
	Filters []previewFilter
	Shown   []messagePreview
	Hidden  int // that are not shown, because there are too many
}

// previewFilter selects previews.
type previewFilter struct {
	Name, Label string
	Options     []string
	Chosen      string
}

// messagePreviews returns the previews for the platforms of an app that the query or form selects.
func (c *Console) messagePreviews(r *http.Request, app string, audience *broadcast.Audience, previews []broadcast.Preview) (list previewList) {
	platforms := c.cfg.Platforms(app)
	filters := []previewFilter{{Name: "show_platform", Label: "Platform"}, {Name: "show_variant", Label: "Variant"}, {Name: "show_language", Label: "Language"}}
	values := func(p *broadcast.Preview) []string { return []string{string(p.Platform), p.Variant, p.Language} }
	previews = slices.DeleteFunc(previews, func(p broadcast.Preview) bool {
		_, reached := audience.ExampleTarget(p.Platform)
		return !reached || !slices.Contains(platforms, p.Platform)
	})
	for i := range filters {
		f := &filters[i]
		for _, p := range previews {
			if value := values(&p)[i]; value != "" && !slices.Contains(f.Options, value) {
				f.Options = append(f.Options, value)
			}
		}
		if value := r.FormValue(f.Name); slices.Contains(f.Options, value) {
			f.Chosen = value
		}
		if len(f.Options) > 1 {
			list.Filters = append(list.Filters, *f)
		}
	}
	for _, p := range previews {
		selected := true
		for i, value := range values(&p) {
			selected = selected && (filters[i].Chosen == "" || filters[i].Chosen == value)
		}
		switch {
		case !selected:
		case len(list.Shown) == maxShown:
			list.Hidden++
		default:
			list.Shown = append(list.Shown, c.messagePreview(app, audience, p))
		}
	}
	return list
}

func (c *Console) messagePreview(app string, audience *broadcast.Audience, p broadcast.Preview) messagePreview {
	n := p.Notification
	n.App, n.Platform = app, p.Platform
	n.Target, _ = audience.ExampleTarget(p.Platform)
	m := messagePreview{p.Platform, p.Variant, p.Language, p.Missing, previewView{Form: sendForm{App: app, Platform: string(p.Platform), Title: n.Title, Subtitle: n.Subtitle, Body: n.Body, Image: n.Image}}}
	m.Silent = n.Title == "" && n.Subtitle == "" && n.Body == "" && n.APNs == nil && n.FCM == nil && n.WebPush == nil
	c.translate(n, &m.previewView)
	return m
}

// Action is the URL that the form is sent to.
func (d broadcastFormData) Action() string {
	if d.ID == "" {
		return Path + "broadcasts"
	}
	return Path + "broadcasts/" + url.PathEscape(d.ID) + "/edit?" + url.Values{"app": {d.App}}.Encode()
}
