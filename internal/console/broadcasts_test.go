// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/sluice-push/sluice/internal/console"
)

const broadcastID = "01a22d66-c53c-8acb-97c2-7d90ad8c5c00"

// broadcastAPI is the part of the API for one broadcast, whose texts are hostile.
type broadcastAPI struct {
	t        *testing.T
	state    string
	commands string
	// definition is in place of the message.
	definition string
	changed    bool     // somebody has changed it: its ETag is not "7" any more
	calls      []string // method, path, If-Match and body
}

func (a *broadcastAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Error(err)
	}
	if len(body) > 1000 {
		body = fmt.Appendf(nil, "%d bytes %x", len(body), sha256.Sum256(body))
	}
	if r.Method != http.MethodGet {
		a.calls = append(a.calls, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("If-Match"), body)))
	}
	quoted := strings.ReplaceAll(hostile, `"`, `\"`)
	definition := cmp.Or(a.definition, fmt.Sprintf(`"name":"%s","message":{"title":"Sale"},"recall":{"message":{"title":"Sorry"}}`, quoted))
	one := fmt.Sprintf(`{"id":%q,"app":"shop",%s,"state":%q,"commands":[%s],"problem":"%s","created_at":"2026-11-30T12:00:00Z","created_by":"%s","started_at":"2026-11-30T12:01:00Z",
		"validation":{"lines":12,"valid":10,"invalid":2,"at":"2026-11-30T12:00:30Z"},
		"counts":{"total":1234567,"pending":200000,"queued":34567,"accepted":999990,"unknown":9,"refused":1,"by":[{"status":"refused","reason":"%s","platform":"apns","count":1}]}}`,
		broadcastID, definition, a.state, a.commands, quoted, quoted, quoted)
	tag := `"7"`
	if a.changed {
		tag = `"8"`
	}
	w.Header().Set("ETag", tag)
	switch {
	case strings.HasSuffix(r.URL.Path, "/preview"):
		_, _ = io.WriteString(w, `{"message":[{"platform":"apns","notification":{"platform":"apns","title":"`+quoted+`"}}],"recall":[{"platform":"apns","notification":{"platform":"apns","title":"Sorry"}}]}`)
	case strings.HasSuffix(r.URL.Path, "/results"):
		_, _ = io.WriteString(w, "line,key\n1,"+r.URL.RawQuery+"\n")
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/broadcasts"):
		_, _ = io.WriteString(w, `{"broadcasts":[`+one+`]}`)
	case strings.HasSuffix(r.URL.Path, "/pause"):
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"title":"The request is not possible in the current state","detail":"`+quoted+`"}`)
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/broadcasts"):
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, one)
	case r.Method == http.MethodPut && r.Header.Get("If-Match") != tag && !strings.HasSuffix(r.URL.Path, "/audience"):
		w.WriteHeader(http.StatusPreconditionFailed)
		_, _ = io.WriteString(w, `{"title":"A precondition failed","field":"If-Match","detail":"must be the current ETag"}`)
	case r.Method == http.MethodPut && bytes.Contains(body, []byte("25:00")):
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"title":"A field is invalid","field":"schedule.local_time","detail":"schedule.local_time: must be a time of day"}`)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusNoContent)
	default:
		_, _ = io.WriteString(w, one)
	}
}

func newBroadcastConsole(t *testing.T, key string) (*testConsole, *broadcastAPI) {
	api := &broadcastAPI{t: t, state: "running", commands: `"start","pause","cancel","recall"`}
	ts := newTestConsole(t, func(cfg *console.Config) { cfg.API = api })
	ts.signIn(key)
	return ts, api
}

const broadcastPage = "/console/broadcasts/" + broadcastID

func TestBroadcastPagesAreReadOnlyWithoutTheScope(t *testing.T) {
	ts, _ := newBroadcastConsole(t, readKey)
	for path, want := range map[string]string{
		broadcastPage + "/edit?app=shop": "no scope", broadcastPage + "/cancel?app=shop": "not possible", broadcastPage + "/delete?app=shop": "not possible",
		"/console/broadcasts": "1,234,567", broadcastPage + "?app=shop": "999,990", broadcastPage + "/recall?app=shop": "999,999", "/console/broadcasts/new": "no scope",
	} {
		body := ts.get(path)
		if !strings.Contains(body, want) || strings.Contains(body, hostile) || strings.Contains(body, "<script>alert") {
			t.Errorf("%s: %s", path, body)
		}
		if strings.Contains(body, `method="post" action="/console/broadcasts`) || strings.Contains(body, `href="/console/broadcasts/new`) {
			t.Errorf("%s offers a change: %s", path, body)
		}
	}
}

func TestBroadcastCommands(t *testing.T) {
	ts, api := newBroadcastConsole(t, adminKey)
	body := ts.get(broadcastPage + "?app=shop")
	for _, want := range []string{`id="do-start"`, `id="do-pause"`, `id="do-cancel"`, `id="do-recall"`, `name="tag" value="&#34;7&#34;"`} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is missing: %s", want, body)
		}
	}
	for _, command := range []struct {
		path, want string
		form       url.Values
		status     int
	}{
		{"/start", `POST %s/start "7"`, url.Values{"tag": {`"7"`}}, http.StatusSeeOther},
		{"/pause", `POST %s/pause`, url.Values{}, http.StatusOK}, // shows why it is not possible
		{"/recall", `POST %s/recall`, url.Values{}, http.StatusSeeOther},
		{"/recall", `POST %s/recall  {"recall":{"message":{"title":"Sorry"}}}`, url.Values{"title": {"Sorry "}}, http.StatusSeeOther},
		{"/delete", `DELETE %s`, url.Values{}, http.StatusSeeOther},
	} {
		api.calls = nil
		w := ts.do(http.MethodPost, broadcastPage+command.path+"?app=shop", command.form)
		if want := fmt.Sprintf(command.want, "/v1/apps/shop/broadcasts/"+broadcastID); w.Code != command.status || len(api.calls) != 1 || api.calls[0] != want {
			t.Errorf("status %d, %q, want %q", w.Code, api.calls, want)
		}
		if w.Code == http.StatusOK && !strings.Contains(w.Body.String(), "not possible in the current state") {
			t.Error(w.Body)
		}
	}
	w := ts.do(http.MethodGet, broadcastPage+"/results?app=shop&format=csv", nil)
	if !strings.Contains(w.Header().Get("Content-Disposition"), "results-"+broadcastID+".csv") || w.Body.String() != "line,key\n1,format=csv\n" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func TestBroadcastFormCreatesDefinition(t *testing.T) {
	ts, api := newBroadcastConsole(t, adminKey)
	form := url.Values{
		"app": {"shop"}, "name": {"Sale"}, "title": {"Hello {{name|there}}"}, "apns_title": {"Hi"}, "more": {`{"languages":{"de":{"title":"Hallo"}},"platforms":{"apns":{"sound":"default"}}}`},
		"kind": {"upload"}, "platform": {"apns"}, "per_minute": {"6000"}, "quiet_from": {"22:00"}, "quiet_to": {"07:00"}, "canary": {"1%"}, "recall_title": {"Sorry"},
	}
	preview := ts.do(http.MethodPost, "/console/broadcasts/preview", form, "HX-Request: true").Body.String()
	if strings.Count(preview, `data-language="de"`) != 2 || !strings.Contains(preview, "Hallo") || !strings.Contains(preview, "Hi") { // apns, webpush
		t.Error(preview)
	}
	w := ts.do(http.MethodPost, "/console/broadcasts", form)
	want := `POST /v1/apps/shop/broadcasts  {"audience":{"platform":"apns"},"canary":{"share":"1%"},"message":{"languages":{"de":{"title":"Hallo"}},` +
		`"platforms":{"apns":{"sound":"default","title":"Hi"}},"title":"Hello {{name|there}}"},"name":"Sale","rate":{"per_minute":6000},` +
		`"recall":{"message":{"title":"Sorry"}},"schedule":{"quiet_hours":{"from":"22:00","to":"07:00"}}}`
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != broadcastPage+"?app=shop" || len(api.calls) != 1 || api.calls[0] != want {
		t.Errorf("status %d, %q, want\n%s", w.Code, api.calls, want)
	}
	for field, wrong := range map[string][2]string{"per_minute": {"many", "must be a whole number"}, "more": {"{", "must be a JSON object"}} {
		bad := url.Values{"app": {"shop"}, "title": {"Hi"}, field: {wrong[0]}}
		if body := ts.do(http.MethodPost, "/console/broadcasts", bad).Body.String(); !strings.Contains(body, wrong[1]) {
			t.Errorf("%s: %s", field, body)
		}
	}
}

// formOf returns the values that a browser sends for the form of a page.
func formOf(t *testing.T, page string) url.Values {
	t.Helper()
	document, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	values, attribute := url.Values{}, func(n *html.Node, name string) string {
		for _, a := range n.Attr {
			if a.Key == name {
				return a.Val
			}
		}
		return ""
	}
	for n := range document.Descendants() {
		switch name := attribute(n, "name"); {
		case n.Type != html.ElementNode:
		case n.Data == "textarea":
			values.Set(name, "")
			if n.FirstChild != nil {
				values.Set(name, strings.ReplaceAll(n.FirstChild.Data, "\n", "\r\n"))
			}
		case n.Data == "input":
			values.Set(name, attribute(n, "value"))
		case n.Data == "option" && (!values.Has(attribute(n.Parent, "name")) || slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "selected" })):
			value := n.FirstChild.Data
			if i := slices.IndexFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "value" }); i >= 0 {
				value = n.Attr[i].Val
			}
			values.Set(attribute(n.Parent, "name"), value)
		}
	}
	return values
}

// definitions use every part of a definition, with and without an input.
var definitions = []string{
	`{"audience":{"platform":"fcm"},"canary":{"share":"1%","wait":"5m0s"},"language":"en","message":{"apns":{"payload":{"n":12345678901234567890123}},"badge":7,"body":"one\ntwo",` +
		`"languages":{"de":{"image":"https://example.com/de.png","title":"Hallo"},"fr":{}},"platforms":{"apns":{"languages":{"de":{"title":"Hallo iOS"}},"title":"Hi"},"fcm":{"body":"Android"}},` +
		`"title":" Hello \"<b>","ttl":"4h"},"name":"Sale","pause_if":{"after":500,"refused":"5%"},"rate":{"per_minute":600,"ramp_up":"10m0s"},"recall":{"language":"en",` +
		`"message":{"data":{"a":"b"},"languages":{"de":{"title":"Entschuldigung"},"it":{"title":"Scusa"}},"title":"Sorry"},"rate":{"per_minute":5}},` +
		`"schedule":{"quiet_hours":{"from":"22:00","to":"07:00"},"start_at":"2026-12-24T09:00:00Z"}}`,
	`{"audience":{"topic":"news"},"variants":[{"message":{"languages":{"de":{"title":"Kurz"}},"title":"Short"},"name":"a","weight":90},` +
		`{"message":{"body":"Long","languages":{"de":{}},"platforms":{"webpush":{"title":"Web"}}},"name":"b","weight":10}]}`,
}

func TestEditKeepsTheDefinition(t *testing.T) {
	ts, api := newBroadcastConsole(t, adminKey)
	for _, definition := range definitions {
		api.state, api.definition, api.calls = "ready", definition[1:len(definition)-1], nil
		w := ts.do(http.MethodPost, broadcastPage+"/edit?app=shop", formOf(t, ts.get(broadcastPage+"/edit?app=shop")))
		if want := fmt.Sprintf(`PUT /v1/apps/shop/broadcasts/%s "7" %s`, broadcastID, definition); w.Code != http.StatusSeeOther || len(api.calls) != 1 || api.calls[0] != want {
			t.Errorf("status %d %q, want\n%q", w.Code, api.calls, want)
		}
	}
}

func TestEditDoesNotOverwriteAChange(t *testing.T) {
	ts, api := newBroadcastConsole(t, adminKey)
	api.state = "draft"
	form := formOf(t, ts.get(broadcastPage+"/edit?app=shop"))
	form.Set("title", "Mine")
	api.changed = true
	body := ts.do(http.MethodPost, broadcastPage+"/edit?app=shop", form).Body.String()
	again := formOf(t, body)
	if !strings.Contains(body, "Somebody has changed this broadcast") || again.Get("title") != "Mine" || again.Get("tag") != `"7"` || again.Get("new_tag") != `"8"` {
		t.Errorf("%v %s", again, body)
	}
	if body := ts.do(http.MethodPost, broadcastPage+"/edit?app=shop", again).Body.String(); !strings.Contains(body, "Somebody has changed") {
		t.Error("the change of somebody else is overwritten without a question")
	}
	again.Set("do", "overwrite")
	api.calls = nil
	if w := ts.do(http.MethodPost, broadcastPage+"/edit?app=shop", again); w.Code != http.StatusSeeOther || len(api.calls) != 1 || !strings.Contains(api.calls[0], `"8"`) || !strings.Contains(api.calls[0], "Mine") {
		t.Errorf("status %d %q", w.Code, api.calls)
	}
	again.Set("local_time", "25:00")
	if body := ts.do(http.MethodPost, broadcastPage+"/edit?app=shop", again).Body.String(); !strings.Contains(body, "Local time of devices must be a time of day") || !strings.Contains(body, `value="25:00" placeholder="09:00" aria-invalid="true"`) {
		t.Error(body)
	}
	again.Del("tag")
	again.Del("do")
	if body := ts.do(http.MethodPost, broadcastPage+"/edit?app=shop", again).Body.String(); !strings.Contains(body, `id="error"`) {
		t.Error("a form without an ETag was saved")
	}
}

func TestBroadcastFormHasVariantsAndLanguages(t *testing.T) {
	ts, api := newBroadcastConsole(t, adminKey)
	form := url.Values{"app": {"shop"}, "title": {"Hello"}}
	change := func(do string) {
		t.Helper()
		form.Set("do", do)
		form = formOf(t, ts.do(http.MethodPost, "/console/broadcasts/form", form, "HX-Request: true").Body.String())
	}
	change("add-variant")
	change("add-variant")
	form.Set("new_language", "de")
	change("add-language")
	form.Set("new_language", "fr")
	change("add-language")
	for input, text := range map[string]string{"v1_title": "Sale", "v2_title": "Today", "v2_weight": "3", "v2_l0_title": "Heute", "v2_l1_title": "Aujourd'hui", "recall_l1_title": "Pardon", "recall_title": "Sorry"} {
		form.Set(input, text)
	}
	for bad, want := range map[string]string{"DE": "that the message does not have", "not a language": "must be a BCP 47 tag"} {
		wrong := maps.Clone(form)
		wrong.Set("new_language", bad)
		if body := ts.do(http.MethodPost, "/console/broadcasts", wrong).Body.String(); !strings.Contains(body, "Another language has a language that is not added") {
			t.Error(body)
		}
		wrong.Set("do", "add-language")
		if body := ts.do(http.MethodPost, "/console/broadcasts/form", wrong, "HX-Request: true").Body.String(); !strings.Contains(body, want) || formOf(t, body).Get("new_language") != bad {
			t.Errorf("%s: %s", bad, body)
		}
	}
	change("remove-variant 0")
	change("remove-language 0")
	ts.do(http.MethodPost, "/console/broadcasts", form)
	const want = `{"recall":{"message":{"languages":{"fr":{"title":"Pardon"}},"title":"Sorry"}},"variants":[{"message":{"languages":{"fr":{}},"title":"Sale"},"name":"B","weight":1},` +
		`{"message":{"languages":{"fr":{"title":"Aujourd'hui"}},"title":"Today"},"name":"C","weight":3}]}`
	if len(api.calls) != 1 || !strings.HasSuffix(api.calls[0], want) {
		t.Errorf("%q, want\n%s", api.calls, want)
	}
	form.Set("show_variant", "C")
	form.Set("show_language", "fr")
	if preview := ts.do(http.MethodPost, "/console/broadcasts/preview", form).Body.String(); strings.Count(preview, "<article") != 2 || strings.Count(preview, `data-variant="C"`) != 2 {
		t.Error(preview)
	}
	change("remove-variant 0")
	if form.Has("variant") || form.Get("title") != "Today" {
		t.Errorf("%v", form)
	}
}

func TestUploadOfAudienceIsPassedOn(t *testing.T) {
	ts, api := newBroadcastConsole(t, adminKey)
	content := "token\n" + strings.Repeat("a0\n", 1<<20) // more than a form may have
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	file, err := form.CreateFormFile("file", "audience.CSV")
	if err == nil {
		_, err = io.WriteString(file, content)
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:9090"+broadcastPage+"/audience?app=shop", &body)
	r.Header.Set("Content-Type", form.FormDataContentType())
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.AddCookie(ts.cookie)
	w := httptest.NewRecorder()
	ts.ServeHTTP(w, r)
	path := "/v1/apps/shop/broadcasts/" + broadcastID
	want := []string{fmt.Sprintf("PUT %s/audience  %d bytes %x", path, len(content), sha256.Sum256([]byte(content))), "POST " + path + "/validate"}
	if w.Code != http.StatusSeeOther || fmt.Sprint(api.calls) != fmt.Sprint(want) {
		t.Errorf("status %d %q, want %q", w.Code, api.calls, want)
	}
	if w := ts.do(http.MethodPost, broadcastPage+"/audience?app=shop", url.Values{}, "HX-Request: true"); !strings.Contains(w.Body.String(), "has no file") {
		t.Error(w.Body)
	}
}
