// SPDX-License-Identifier: Apache-2.0

package console_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/console"
)

const broadcastID = "01a22d66-c53c-8acb-97c2-7d90ad8c5c00"

// broadcastAPI is the part of the API for one broadcast, whose texts are hostile.
type broadcastAPI struct {
	t        *testing.T
	state    string
	commands string
	calls    []string // method, path, If-Match and body
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
	one := fmt.Sprintf(`{"id":%q,"app":"shop","name":"%s","state":%q,"commands":[%s],"problem":"%s","message":{"title":"Sale"},
		"recall":{"message":{"title":"Sorry"}},"created_at":"2026-11-30T12:00:00Z","created_by":"%s","started_at":"2026-11-30T12:01:00Z",
		"validation":{"lines":12,"valid":10,"invalid":2,"at":"2026-11-30T12:00:30Z"},
		"counts":{"total":1234567,"pending":200000,"queued":34567,"accepted":999990,"unknown":9,"refused":1,"by":[{"status":"refused","reason":"%s","platform":"apns","count":1}]}}`,
		broadcastID, quoted, a.state, a.commands, quoted, quoted, quoted)
	w.Header().Set("ETag", `"7"`)
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
