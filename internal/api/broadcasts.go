// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// broadcastRoutes adds the routes of broadcasts.
func (s *server) broadcastRoutes(r chi.Router) {
	const all = "/v1/apps/{app}/broadcasts"
	const one, upload = all + "/{id}", all + "/{id}/audience"
	read, write := identity.Read|identity.Broadcasts, identity.Broadcasts
	r.Get(all, handle(s.authorize(read, s.withBroadcasts(s.listBroadcasts))))
	r.Post(all, handle(s.authorize(write, s.withBroadcasts(s.createBroadcast))))
	r.Get(all+"/devices", handle(s.authorize(read, s.withBroadcasts(s.countDevices))))
	r.Get(one, handle(s.authorize(read, s.withBroadcasts(s.showBroadcast))))
	r.Put(one, handle(s.authorize(write, s.withBroadcasts(s.replaceBroadcast))))
	r.Delete(one, handle(s.authorize(write, s.withBroadcasts(s.deleteBroadcast))))
	r.Head(upload, handle(s.authorize(read, s.withBroadcasts(s.showUpload))))
	r.Put(upload, handle(s.authorize(write, s.withBroadcasts(s.replaceAudience))))
	r.Patch(upload, handle(s.authorize(write, s.withBroadcasts(s.continueAudience))))
	r.Get(one+"/invalid", handle(s.authorize(read, s.withBroadcasts(s.listInvalid))))
	r.Get(one+"/preview", handle(s.authorize(read, s.withBroadcasts(s.previewBroadcast))))
	r.Get(one+"/results", handle(s.authorize(read, s.withBroadcasts(s.exportResults))))
	r.Post(one+"/{command}", handle(s.authorize(write|identity.Approve, s.withBroadcasts(s.commandBroadcast))))
}

// broadcastHandler is a handler of a request for broadcasts.
type broadcastHandler func(m *broadcast.Manager, w *response, r *http.Request) *problem

// withBroadcasts calls h, unless the gateway has no broadcasts.
func (s *server) withBroadcasts(h broadcastHandler) handler {
	return func(w *response, r *http.Request) *problem {
		if s.broadcasts == nil {
			return &problem{kind: needsQueue, detail: "broadcasts need a queue, which stores their audiences and notifications"}
		}
		m := s.broadcasts()
		if m == nil {
			return s.storageUnavailable(r.Context(), errors.New("api: the queue is not open"))
		}
		return h(m, w, r)
	}
}

func (s *server) listBroadcasts(m *broadcast.Manager, w *response, r *http.Request) *problem {
	views, err := m.List(r.Context(), w.app)
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyJSON(w, http.StatusOK, struct {
		Broadcasts []*broadcast.View `json:"broadcasts"`
	}{views})
}

// definitionExample is an example of the body that defines a broadcast.
const definitionExample = `{"message":{"title":"Hello"},"audience":{"platform":"fcm"}}`

func (s *server) createBroadcast(m *broadcast.Manager, w *response, r *http.Request) *problem {
	var d broadcast.Definition
	if p := s.decodeBody(w, r, &d, definitionExample); p != nil {
		return p
	}
	v, err := m.Create(r.Context(), w.app, w.key, &d)
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	w.Header().Set("Location", r.URL.EscapedPath()+"/"+v.ID)
	return replyBroadcast(w, http.StatusCreated, v)
}

func (s *server) countDevices(m *broadcast.Manager, w *response, r *http.Request) *problem {
	query := params{given: r.URL.Query()}
	ids := query.list("id")
	if p := query.finish(); p != nil {
		return p
	}
	if len(ids) == 0 || len(ids) > broadcast.MaxMerged {
		return invalidParam("id", fmt.Sprintf("must be the IDs of 1 to %d broadcasts", broadcast.MaxMerged))
	}
	devices, err := m.Devices(r.Context(), w.app, ids)
	if err == nil {
		return replyJSON(w, http.StatusOK, devices)
	}
	p := s.broadcastProblem(r, err)
	if e, ok := errors.AsType[*broadcast.ItemError](err); ok && p.status < http.StatusInternalServerError {
		p.field, p.detail = "id", fmt.Sprintf("value %d: %s", e.Index+1, p.detail)
	}
	return p
}

func (s *server) showBroadcast(m *broadcast.Manager, w *response, r *http.Request) *problem {
	v, err := m.Get(r.Context(), w.app, chi.URLParam(r, "id"))
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyBroadcast(w, http.StatusOK, v)
}

func (s *server) replaceBroadcast(m *broadcast.Manager, w *response, r *http.Request) *problem {
	revision, p := ifMatch(r)
	if p != nil {
		return p
	}
	var d broadcast.Definition
	if p := s.decodeBody(w, r, &d, definitionExample); p != nil {
		return p
	}
	v, err := m.Replace(r.Context(), w.app, w.key, chi.URLParam(r, "id"), revision, &d)
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyBroadcast(w, http.StatusOK, v)
}

func (s *server) deleteBroadcast(m *broadcast.Manager, w *response, r *http.Request) *problem {
	revision, p := ifMatch(r)
	if p != nil {
		return p
	}
	ctx, done := s.storageContext(r.Context())
	defer done()
	if err := m.Delete(ctx, w.app, chi.URLParam(r, "id"), revision); err != nil {
		return s.broadcastProblem(r, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) commandBroadcast(m *broadcast.Manager, w *response, r *http.Request) *problem {
	c := broadcast.CommandRequest{Command: broadcast.Command(chi.URLParam(r, "command")), Caller: w.key}
	if !slices.Contains(broadcast.Commands, c.Command) {
		return &problem{kind: notFound, detail: "the commands are " + joinCommands(broadcast.Commands)}
	}
	needed := identity.Broadcasts
	if c.Command == broadcast.Approve {
		needed = identity.Approve
	}
	if w.access.caller.Scopes(w.app)&needed == 0 {
		return s.missingScopes(w.access.caller, needed)
	}
	var p *problem
	if c.Revision, p = ifMatch(r); p != nil {
		return p
	}
	if c.Command == broadcast.Recall && r.ContentLength != 0 {
		var body struct {
			Recall *broadcast.RecallMessage `json:"recall"`
		}
		if p := s.decodeBody(w, r, &body, `{"recall":{"message":{"title":"Sorry"}}}`); p != nil {
			return p
		}
		c.Recall = body.Recall
	}
	ctx, done := s.storageContext(r.Context()) // a command is not left half done
	defer done()
	v, err := m.Do(ctx, w.app, chi.URLParam(r, "id"), c)
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyBroadcast(w, http.StatusOK, v)
}

// The headers of an upload (draft-ietf-httpbis-resumable-upload).
const (
	uploadOffset   = "Upload-Offset"
	uploadComplete = "Upload-Complete"
)

func (s *server) showUpload(m *broadcast.Manager, w *response, r *http.Request) *problem {
	offset, complete, err := m.Uploaded(r.Context(), w.app, chi.URLParam(r, "id"))
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	setUpload(w, offset, complete)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func setUpload(w *response, offset int64, complete bool) {
	w.Header().Set(uploadOffset, strconv.FormatInt(offset, 10))
	w.Header().Set(uploadComplete, map[bool]string{true: "?1", false: "?0"}[complete])
}

func (s *server) replaceAudience(m *broadcast.Manager, w *response, r *http.Request) *problem {
	format, ok := audience.FormatOf(r.Header.Get("Content-Type"))
	if !ok {
		return &problem{kind: unsupportedBody, field: "Content-Type", detail: "must be application/x-ndjson or text/csv"}
	}
	return s.upload(m, w, r, broadcast.UploadRequest{Caller: w.key, Format: format, Replace: true})
}

func (s *server) continueAudience(m *broadcast.Manager, w *response, r *http.Request) *problem {
	u := broadcast.UploadRequest{Caller: w.key}
	if media := r.Header.Get("Content-Type"); media != "" && media != "application/partial-upload" {
		format, ok := audience.FormatOf(media)
		if !ok {
			return &problem{kind: unsupportedBody, field: "Content-Type", detail: "must be application/partial-upload, application/x-ndjson or text/csv"}
		}
		u.Format = format
	}
	var err error
	if u.Offset, err = strconv.ParseInt(r.Header.Get(uploadOffset), 10, 63); err != nil || u.Offset < 0 {
		return &problem{kind: invalidHeader, field: uploadOffset, detail: "must be the number of bytes that are stored, as in the response to HEAD"}
	}
	return s.upload(m, w, r, u)
}

func (s *server) upload(m *broadcast.Manager, w *response, r *http.Request, u broadcast.UploadRequest) *problem {
	switch r.Header.Get(uploadComplete) {
	case "", "?1":
	case "?0":
		u.Partial = true
	default:
		return &problem{kind: invalidHeader, field: uploadComplete, detail: "must be ?1 if the request completes the upload, or ?0"}
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return &problem{kind: unsupportedBody, field: "Content-Encoding", detail: "must be absent: compressed bodies are not supported"}
	}
	var p *problem
	if u.Revision, p = ifMatch(r); p != nil {
		return p
	}
	// What has arrived is stored although the client disconnects: it continues there.
	body := &steadyBody{r.Body, http.NewResponseController(w.ResponseWriter), s.limits.BodyTimeout, nil}
	v, offset, err := m.Upload(context.WithoutCancel(r.Context()), w.app, chi.URLParam(r, "id"), u, body)
	setUpload(w, offset, err == nil && !u.Partial)
	if err != nil && errors.Is(err, body.err) {
		return s.bodyProblem(err)
	}
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyBroadcast(w, http.StatusOK, v)
}

// steadyBody is a body of any length, whose parts must each arrive in time.
type steadyBody struct {
	in      io.Reader
	control *http.ResponseController
	timeout time.Duration
	err     error // of in, except for its end
}

// Read implements io.Reader.
func (b *steadyBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(b.timeout)) // a test recorder has none
	n, err := b.in.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

const defaultInvalidPage, maxInvalidPage = 100, 1000

func (s *server) listInvalid(m *broadcast.Manager, w *response, r *http.Request) *problem {
	query := params{given: r.URL.Query()}
	after, limit := query.number("after", 0, 1<<31-1, 0), query.number("limit", 1, maxInvalidPage, defaultInvalidPage)
	if p := query.finish(); p != nil {
		return p
	}
	page, err := m.Invalid(r.Context(), w.app, chi.URLParam(r, "id"), after, limit)
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyJSON(w, http.StatusOK, page)
}

func (s *server) previewBroadcast(m *broadcast.Manager, w *response, r *http.Request) *problem {
	previews, err := m.Preview(r.Context(), w.app, chi.URLParam(r, "id"))
	if err != nil {
		return s.broadcastProblem(r, err)
	}
	return replyJSON(w, http.StatusOK, previews)
}

func (s *server) exportResults(m *broadcast.Manager, w *response, r *http.Request) *problem {
	query := params{given: r.URL.Query()}
	format := audience.Format(cmp.Or(query.oneOf("format", string(audience.NDJSON), string(audience.CSV)), string(audience.NDJSON)))
	if p := query.finish(); p != nil {
		return p
	}
	out := &exportWriter{w: w, format: format, control: http.NewResponseController(w.ResponseWriter), timeout: s.limits.WriteTimeout}
	err := m.WriteResults(r.Context(), w.app, chi.URLParam(r, "id"), format, out)
	switch {
	case err == nil:
		out.start()
		return nil
	case !out.started:
		return s.broadcastProblem(r, err)
	default: // the client must not take the part for the whole
		panic(http.ErrAbortHandler)
	}
}

// exportWriter writes the body of a response that has started with the first write.
type exportWriter struct {
	w       *response
	format  audience.Format
	control *http.ResponseController
	timeout time.Duration
	started bool
}

func (e *exportWriter) start() {
	if e.started {
		return
	}
	e.started = true
	if e.w.Header()["Content-Type"] = ndjsonType; e.format == audience.CSV {
		e.w.Header()["Content-Type"] = []string{"text/csv; charset=utf-8"}
	}
	e.w.WriteHeader(http.StatusOK)
}

// Write implements io.Writer.
func (e *exportWriter) Write(p []byte) (int, error) {
	e.start()
	_ = e.control.SetWriteDeadline(time.Now().Add(e.timeout))
	return e.w.Write(p)
}

// ifMatch returns the revision that the request expects, or 0 for any.
func ifMatch(r *http.Request) (uint64, *problem) {
	tag := r.Header.Get("If-Match")
	if tag == "" || tag == "*" {
		return 0, nil
	}
	revision, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
	if err != nil || revision == 0 || len(tag) < 3 || tag[0] != '"' {
		return 0, &problem{kind: invalidHeader, field: "If-Match", detail: "must be the ETag of the broadcast, or *"}
	}
	return revision, nil
}

func replyBroadcast(w *response, status int, v *broadcast.View) *problem {
	w.Header().Set("ETag", fmt.Sprintf("%q", strconv.FormatUint(v.Revision, 10)))
	return replyJSON(w, status, v)
}

func joinCommands(commands []broadcast.Command) string {
	text := make([]string, len(commands))
	for i, c := range commands {
		text[i] = string(c)
	}
	return strings.Join(text, ", ")
}

// broadcastProblem returns the problem for an error of a Manager.
func (s *server) broadcastProblem(r *http.Request, err error) *problem {
	if e, ok := errors.AsType[*strictjson.Error](err); ok {
		return strictProblem(e)
	}
	if e, ok := errors.AsType[*broadcast.ConflictError](err); ok {
		allowed := joinCommands(e.Allowed)
		return &problem{kind: notPossible, detail: fmt.Sprintf("%s; possible commands: %s", e.Detail, cmp.Or(allowed, "none"))}
	}
	if e, ok := errors.AsType[*broadcast.OffsetError](err); ok {
		return &problem{kind: wrongOffset, field: uploadOffset, detail: fmt.Sprintf("must be %d, the number of bytes that are stored", e.Offset)}
	}
	switch {
	case errors.Is(err, broadcast.ErrNotFound):
		return &problem{kind: notFound, field: "id", detail: "this app has no broadcast with this id, or it is no longer stored"}
	case errors.Is(err, broadcast.ErrNoUpload):
		return &problem{kind: invalidParameter, field: "id", detail: "must be a broadcast with an uploaded audience: only the provider knows the devices of a topic, condition or channel"}
	case errors.Is(err, broadcast.ErrChanged) && r.Header.Get("If-Match") != "":
		return &problem{kind: preconditionFailed, field: "If-Match", detail: "must be the current ETag: the broadcast has changed meanwhile"}
	case errors.Is(err, broadcast.ErrChanged), errors.Is(err, broadcast.ErrOtherUpload):
		return &problem{kind: notPossible, retryAfter: time.Second, detail: "another request changes the broadcast at the same time: repeat this one"}
	case errors.Is(err, broadcast.ErrUploadTooLarge):
		return &problem{kind: bodyTooLarge, detail: "the audience has more bytes or lines than broadcasts.max_bytes and broadcasts.max_lines of the gateway's configuration allow"}
	case errors.Is(err, broadcast.ErrLineTooLong):
		return invalid("", fmt.Sprintf("audience must have lines of at most %d bytes", audience.MaxLine))
	case errors.Is(err, push.ErrQueueFull):
		return &problem{kind: queueFull, retryAfter: time.Second, detail: "repeat the request after the time in Retry-After"}
	}
	return s.lookupProblem(r, err)
}
