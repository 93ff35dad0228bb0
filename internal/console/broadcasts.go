// SPDX-License-Identifier: Apache-2.0

package console

import (
	"cmp"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/push"
)

// broadcastsData is the data of the page with all broadcasts of an app.
type broadcastsData struct {
	Apps  []string // whose broadcasts the viewer may read
	App   string
	May   bool // create a broadcast
	Error string
	List  []*broadcastView
}

// broadcastView is a broadcast with what the viewer may do.
type broadcastView struct {
	broadcast.View
	Tag        string // the ETag of the response
	May        bool   // the viewer may change it
	MayApprove bool
	Invalid    *broadcast.InvalidPage // before the start, if there are any
}

// Current returns the counts of what is going on.
func (v *broadcastView) Current() *broadcast.Counts {
	if v.InRecall {
		return v.RecallCounts
	}
	return v.Counts
}

// Reached is the number of devices that a recall sends its message to.
func (v *broadcastView) Reached() uint64 {
	if v.Counts == nil {
		return 0
	}
	return v.Counts.Accepted + v.Counts.Unknown
}

// IsFinished reports whether all notifications have ended.
func (v *broadcastView) IsFinished() bool { return !v.FinishedAt.IsZero() }

// isUploaded reports whether the audience is a file.
func (v *broadcastView) isUploaded() bool {
	return v.Audience.Topic == "" && v.Audience.Condition == "" && v.Audience.Channel == ""
}

// hasAudience reports whether the audience is complete.
func (v *broadcastView) hasAudience() bool {
	return !v.isUploaded() || v.Upload != nil && v.Upload.Complete
}

// MayUpload reports whether the viewer may upload an audience before the start.
func (v *broadcastView) MayUpload() bool {
	return v.May && v.StartedAt.IsZero() && !v.State.IsFinal() && v.isUploaded()
}

// MayCancel reports whether the viewer may cancel the broadcast now.
func (v *broadcastView) MayCancel() bool {
	return v.May && slices.Contains(v.Commands, broadcast.Cancel)
}

// MayDelete reports whether the viewer may delete the broadcast now.
func (v *broadcastView) MayDelete() bool {
	return v.May && (v.State == broadcast.Draft || v.State == broadcast.Ready || v.IsFinished())
}

// Buttons are the commands that the viewer may give now, except recall, which has a page.
func (v *broadcastView) Buttons() (commands []broadcast.Command) {
	for _, c := range v.Commands {
		if c == broadcast.Validate && !v.hasAudience() {
			continue
		}
		if may := v.May; c != broadcast.Recall && (may && c != broadcast.Approve || v.MayApprove && c == broadcast.Approve) {
			commands = append(commands, c)
		}
	}
	return commands
}

// MayRecall reports whether the viewer may recall the broadcast now.
func (v *broadcastView) MayRecall() bool {
	return v.May && slices.Contains(v.Commands, broadcast.Recall)
}

// MayEdit reports whether the viewer may change the definition.
func (v *broadcastView) MayEdit() bool {
	return v.May && (v.State == broadcast.Draft || v.State == broadcast.Ready)
}

// Next says what is going on, or what the viewer can do next.
func (v *broadcastView) Next() string {
	switch v.State {
	case broadcast.Draft:
		switch {
		case v.Problem != "" && v.isUploaded():
			return "Nothing is sent. Next: correct the file and upload it again."
		case v.hasAudience():
			return "Nothing is sent yet. Next: validate, which checks everything and sends nothing."
		case v.Upload != nil:
			return "The upload is not complete. Next: upload the file again, or continue with gateway broadcast upload --continue."
		default:
			return "Nothing is sent yet. Next: upload the audience."
		}
	case broadcast.Validating:
		return "Each line is checked. Nothing is sent."
	case broadcast.Ready:
		text := "Everything is checked. Nothing is sent before you start it."
		if a := v.Validation; a != nil && a.Invalid+a.Duplicates > 0 {
			text = plural(a.Invalid+a.Duplicates, "line") + " of " + formatCount(a.Lines) + " will not be sent: see below. " + text
		}
		return text
	case broadcast.Running:
		if at := time.Time(v.Schedule.StartAt); at.After(time.Now()) {
			return "Sending begins at " + formatDay(at) + " UTC."
		}
	case broadcast.Paused:
		return "Nothing is sent until you resume it."
	case broadcast.Recalling:
		return "The recall message is being sent."
	}
	if v.State.IsFinal() && !v.IsFinished() {
		return "The last results are on their way."
	}
	return ""
}

// commandLabels are the texts of the buttons. Those with an ellipsis ask first.
var commandLabels = map[broadcast.Command]string{
	broadcast.Validate: "Validate", broadcast.Approve: "Approve", broadcast.Start: "Start", broadcast.Pause: "Pause", broadcast.Resume: "Resume", broadcast.Cancel: "Cancel…",
}

// Label is the text of the button for a command.
func (v *broadcastView) Label(c broadcast.Command) string {
	if c == broadcast.Start && v.Validation != nil && v.isUploaded() {
		return "Start: send to " + plural(v.Validation.Valid, "device")
	}
	return commandLabels[c]
}

// Class is the class of the style sheet for the state.
func (v *broadcastView) Class() string {
	switch v.State {
	case broadcast.Running, broadcast.Completed:
		return "good"
	case broadcast.Paused, broadcast.Expired:
		return "warn"
	case broadcast.Recalling, broadcast.Recalled:
		return "unsure"
	case broadcast.Cancelled:
		return "bad"
	default:
		return "wait"
	}
}

// countsView are counts with a title.
type countsView struct {
	Title string
	*broadcast.Counts
}

// Counted returns the counts that there are, the current ones first.
func (v *broadcastView) Counted() (all []countsView) {
	if v.StartedAt.IsZero() {
		return nil
	}
	if v.RecallCounts != nil {
		all = append(all, countsView{"Recall", v.RecallCounts})
	}
	if v.Counts != nil {
		all = append(all, countsView{"Message", v.Counts})
	}
	return all
}

// Share returns the share of the notifications that have ended.
func (c countsView) Share() float64 { return float64(c.Ended()) / float64(max(c.Total, 1)) }

// Rows returns the counts by result, those that are not accepted first, the most frequent first.
func (c countsView) Rows() []broadcast.CountBy {
	rows := slices.Clone(c.By)
	slices.SortStableFunc(rows, func(a, b broadcast.CountBy) int {
		expected := func(s push.Status) int { return map[push.Status]int{push.StatusAccepted: 1, push.StatusQueued: 2}[s] }
		return cmp.Or(cmp.Compare(expected(a.Status), expected(b.Status)), cmp.Compare(b.Count, a.Count))
	})
	return rows[:min(len(rows), maxShown)]
}

// broadcastApps returns the apps whose broadcasts the viewer may read, and the one of the query or the
// first one.
func broadcastApps(r *http.Request, v *viewer) (apps []string, app string) {
	apps = v.Apps(identity.Read | identity.Broadcasts)
	if app = r.URL.Query().Get("app"); app == "" && len(apps) > 0 {
		app = apps[0]
	}
	return apps, app
}

func broadcastsPath(app string) string { return "/v1/apps/" + url.PathEscape(app) + "/broadcasts" }

// broadcastPath returns the path of the broadcast of a request, or of something below it, in the API.
func broadcastPath(r *http.Request, below ...string) string {
	parts := append([]string{broadcastsPath(r.URL.Query().Get("app")), url.PathEscape(r.PathValue("id"))}, below...)
	return strings.Join(parts, "/")
}

// text returns the problem as a sentence.
func (p *problem) text() string {
	return strings.TrimSpace(p.Title + ". " + strings.TrimSpace(p.Field+" "+strings.TrimPrefix(p.Detail, p.Field+": ")))
}

// showBroadcasts lists the broadcasts of an app.
func (c *Console) showBroadcasts(w http.ResponseWriter, r *http.Request, v *viewer) {
	data := broadcastsData{}
	data.Apps, data.App = broadcastApps(r, v)
	data.May = v.may(identity.Broadcasts, data.App)
	if data.App != "" {
		var list struct {
			Broadcasts []broadcast.View `json:"broadcasts"`
		}
		response := c.call(r.Context(), v, http.MethodGet, broadcastsPath(data.App), nil)
		if response.Status != http.StatusOK || json.Unmarshal(response.body.Bytes(), &list) != nil {
			data.Error = response.problem().text()
		}
		for _, b := range list.Broadcasts {
			data.List = append(data.List, &broadcastView{View: b})
		}
	}
	if isPart(r) {
		c.renderPart(w, "broadcasts-result", data)
		return
	}
	c.page(w, r, v, "broadcasts", "Broadcasts", data)
}

// broadcastData is the data of the page of a broadcast.
type broadcastData struct {
	Apps      []string
	App       string
	Error     string
	Broadcast *broadcastView // nil if it cannot be read
	Recall    bool           // Previews are of the recall message
	Previews  previewList
	Command   string            // to confirm
	Entered   map[string]string // in the form of the recall message
}

// findBroadcast returns the broadcast of a request, or a text that says why there is none.
func (c *Console) findBroadcast(r *http.Request, v *viewer) (*broadcastView, string) {
	app := r.URL.Query().Get("app")
	response := c.call(r.Context(), v, http.MethodGet, broadcastPath(r), nil)
	found := &broadcastView{May: v.may(identity.Broadcasts, app), MayApprove: v.may(identity.Approve, app), Tag: response.header.Get("ETag")}
	if response.Status != http.StatusOK || json.Unmarshal(response.body.Bytes(), &found.View) != nil {
		return nil, response.problem().text()
	}
	if a := found.Validation; a != nil && found.StartedAt.IsZero() && a.Invalid+a.Duplicates > 0 {
		response := c.call(r.Context(), v, http.MethodGet, broadcastPath(r, "invalid"), nil)
		if page := new(broadcast.InvalidPage); response.Status == http.StatusOK && json.Unmarshal(response.body.Bytes(), page) == nil {
			found.Invalid = page
		}
	}
	return found, ""
}

// showBroadcast shows a broadcast.
func (c *Console) showBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.showBroadcastWith(w, r, v, "broadcast", "")
}

// showRecall asks whether to recall a broadcast.
func (c *Console) showRecall(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.showBroadcastWith(w, r, v, "broadcast-recall", "")
}

// confirmCommand asks whether to cancel or delete a broadcast.
func (c *Console) confirmCommand(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.showBroadcastWith(w, r, v, "broadcast-confirm", "")
}

func (c *Console) showBroadcastWith(w http.ResponseWriter, r *http.Request, v *viewer, name, problem string) {
	data := c.broadcastData(r, v, name == "broadcast-recall")
	data.Error, data.Command = cmp.Or(problem, data.Error), path.Base(r.URL.Path)
	data.Entered = map[string]string{"title": r.PostFormValue("title"), "body": r.PostFormValue("body")}
	title := "Broadcast"
	if data.Broadcast != nil {
		title = cmp.Or(data.Broadcast.Name, title)
	}
	c.page(w, r, v, name, title, data)
}

// broadcastData returns the data of the page of a broadcast, with the previews of one of its messages.
func (c *Console) broadcastData(r *http.Request, v *viewer, recall bool) broadcastData {
	data := broadcastData{Recall: recall}
	data.Apps, data.App = broadcastApps(r, v)
	if data.Broadcast, data.Error = c.findBroadcast(r, v); data.Broadcast == nil {
		return data
	}
	response := c.call(r.Context(), v, http.MethodGet, broadcastPath(r, "preview"), nil)
	var previews broadcast.Previews
	if response.Status == http.StatusOK && json.Unmarshal(response.body.Bytes(), &previews) == nil {
		shown := previews.Message
		if recall {
			shown = previews.Recall
		}
		data.Previews = c.messagePreviews(r, data.App, &data.Broadcast.Audience, shown)
	}
	return data
}

// showPreviews responds with the previews that a filter selects.
func (c *Console) showPreviews(w http.ResponseWriter, r *http.Request, v *viewer) {
	c.renderPart(w, "stored-previews", c.broadcastData(r, v, r.URL.Query().Get("recall") == "true"))
}

// streamBroadcast sends the state of a broadcast as server-sent events, like streamLive.
func (c *Console) streamBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	var last rates
	var lastAt time.Time
	c.stream(w, r, v, func(v *viewer) (update, error) {
		found, missing := c.findBroadcast(r, v)
		if found == nil {
			return update{}, errors.New(missing)
		}
		u := update{template: "broadcast-view", data: broadcastData{App: r.URL.Query().Get("app"), Broadcast: found}}
		now, totals := time.Now(), sumResults(found.Current())
		if elapsed := now.Sub(lastAt).Seconds(); !lastAt.IsZero() && elapsed > 0 && totals.Total() >= last.Total() {
			u.point = &point{
				At: now.Unix(), Accepted: (totals.Accepted - last.Accepted) / elapsed, Retryable: (totals.Retryable - last.Retryable) / elapsed,
				Refused: (totals.Refused - last.Refused) / elapsed, Unsure: (totals.Unsure - last.Unsure) / elapsed,
			}
		}
		last, lastAt = totals, now
		return u, nil
	})
}

// sumResults returns the number of notifications that have ended, by class.
func sumResults(counts *broadcast.Counts) (sum rates) {
	if counts == nil {
		return sum
	}
	for _, n := range counts.By {
		if n.Status != push.StatusQueued {
			*sum.class(n.Status) += float64(n.Count)
		}
	}
	return sum
}

// commandBroadcast gives a command, and shows the broadcast.
func (c *Console) commandBroadcast(w http.ResponseWriter, r *http.Request, v *viewer) {
	command := r.PathValue("command")
	method, target, body := http.MethodPost, broadcastPath(r, url.PathEscape(command)), []byte(nil)
	switch {
	case command == "delete":
		method, target = http.MethodDelete, broadcastPath(r)
	case command == string(broadcast.Recall) && (r.PostFormValue("title") != "" || r.PostFormValue("body") != ""):
		message := map[string]string{}
		setText(message, "title", r.PostFormValue("title"))
		setText(message, "body", r.PostFormValue("body"))
		body, _ = json.Marshal(map[string]any{"recall": map[string]any{"message": message}}) // strings
	}
	var header []string
	if tag := r.PostFormValue("tag"); tag != "" {
		header = append(header, "If-Match", tag)
	}
	response := c.call(r.Context(), v, method, target, body, header...)
	switch {
	case response.Status/100 != 2 && command == string(broadcast.Recall): // what was entered is not lost
		labels := strings.NewReplacer("recall.message.title", "Title", "recall.message.body", "Body")
		c.showBroadcastWith(w, r, v, "broadcast-recall", labels.Replace(response.problem().text()))
	case response.Status/100 != 2:
		c.showBroadcastWith(w, r, v, "broadcast", response.problem().text())
	case command == "delete":
		http.Redirect(w, r, Path+"broadcasts?"+r.URL.RawQuery, http.StatusSeeOther)
	default:
		c.redirectToBroadcast(w, r, r.URL.Query().Get("app"), r.PathValue("id"))
	}
}

func setText(m map[string]string, name, value string) {
	if value = strings.TrimSpace(value); value != "" {
		m[name] = value
	}
}

func (c *Console) redirectToBroadcast(w http.ResponseWriter, r *http.Request, app, id string) {
	target := Path + "broadcasts/" + url.PathEscape(id) + "?" + url.Values{"app": {app}}.Encode()
	if isPart(r) {
		w.Header().Set("HX-Redirect", target)
		return
	}
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// uploadAudience passes an uploaded file on to the API while it arrives, and starts the validation.
func (c *Console) uploadAudience(w http.ResponseWriter, r *http.Request, v *viewer) {
	if problem := c.passUpload(w, r, v); problem != "" {
		if isPart(r) {
			c.renderPart(w, "error", problem)
			return
		}
		c.showBroadcastWith(w, r, v, "broadcast", problem)
		return
	}
	c.redirectToBroadcast(w, r, r.URL.Query().Get("app"), r.PathValue("id"))
}

func (c *Console) passUpload(w http.ResponseWriter, r *http.Request, v *viewer) (problem string) {
	parts, err := r.MultipartReader()
	if err != nil {
		return "The request has no file."
	}
	var file *multipart.Part
	for file == nil || file.FormName() != "file" {
		if file, err = parts.NextPart(); err != nil {
			return "The request has no file."
		}
	}
	contentType := "application/x-ndjson"
	if strings.EqualFold(path.Ext(file.FileName()), ".csv") {
		contentType = "text/csv"
	}
	response := &apiResponse{header: http.Header{}, Status: http.StatusOK, control: http.NewResponseController(w)}
	request, err := newAPIRequest(r.Context(), http.MethodPut, broadcastPath(r, "audience"), file)
	if err != nil {
		return "The ID is invalid."
	}
	request.Header.Set("Content-Type", contentType)
	request.ContentLength = -1
	c.cfg.API.ServeHTTP(response, c.cfg.WithCaller(request, v.Caller))
	if response.Status != http.StatusOK {
		return response.problem().text()
	}
	if response = c.call(r.Context(), v, http.MethodPost, broadcastPath(r, string(broadcast.Validate)), nil); response.Status != http.StatusOK {
		return response.problem().text()
	}
	return ""
}

// exportResults passes the results of the API on as a file.
func (c *Console) exportResults(w http.ResponseWriter, r *http.Request, v *viewer) {
	format := audience.NDJSON
	if r.URL.Query().Get("format") == string(audience.CSV) {
		format = audience.CSV
	}
	request, err := newAPIRequest(r.Context(), http.MethodGet, broadcastPath(r, "results")+"?format="+string(format), http.NoBody)
	if err != nil {
		c.notFound(w, r)
		return
	}
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", "results-"+r.PathValue("id")+"."+string(format)))
	c.cfg.API.ServeHTTP(w, c.cfg.WithCaller(request, v.Caller))
}

// isUpload reports whether the body of a request is an audience, which has a limit of its own.
func isUpload(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, Path+"broadcasts/") && strings.HasSuffix(r.URL.Path, "/audience")
}
