// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// send is POST /v1/apps/{app}/notifications: read, decode, hand on, answer.
func (a *server) send(w *response, r *http.Request) *problem {
	async, p := a.preferAsync(r)
	if p != nil {
		return p
	}
	if _, p := bodyType(r, "application/json"); p != nil {
		return p
	}
	key := r.Header.Get("Idempotency-Key")
	if !validIdempotencyKey(key) {
		return &problem{kind: invalidHeader, field: "Idempotency-Key", detail: idempotencyKeyRule}
	}
	body := bufferPool.Get().(*bytes.Buffer)
	defer putBuffer(body)
	if p := a.readBody(w, r, body); p != nil {
		return p
	}
	n, p := decode(body.Bytes())
	if p == nil {
		p = a.checkSendAt(n, async)
	}
	if p != nil {
		return p
	}
	assignID(n, w.app)
	o := newSubmission(n, key, body.Bytes())
	if async {
		a.enqueue(r.Context(), []*submission{o})
	} else {
		o.maxWait = preferredWait(r)
		a.deliver(r.Context(), o)
	}
	if r.Context().Err() == nil {
		o.result.reply(w, async).write(w)
	}
	return nil
}

// assignID gives n what the gateway knows of it: a name (UUID version 7, so that names sort by time), its app and the
// time.
func assignID(n *push.Notification, app string) {
	n.ID, n.App, n.AcceptedAt = uuid.Must(uuid.NewV7()).String(), app, time.Now()
}

// bufferPool hold bodies and answers while they come and go.
var bufferPool = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// putBuffer keeps a buffer for the next who needs one, unless it is of a size that few need.
func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= 256<<10 {
		b.Reset()
		bufferPool.Put(b)
	}
}

// readBody reads the whole body into b, up to the limit and within the time that observe set.
func (a *server) readBody(w *response, r *http.Request, b *bytes.Buffer) *problem {
	tooLarge := &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(a.limits.Body)}
	if r.ContentLength > int64(a.limits.Body) {
		return tooLarge
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w.ResponseWriter, r.Body, int64(a.limits.Body))); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return tooLarge
		}
		return a.bodyProblem(err)
	}
	// What the body's deadline would end from here on is net/http's watch for the caller's departure.
	_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Time{})
	return nil
}

// bodyProblem is the problem of a body whose reading ended in err.
func (a *server) bodyProblem(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &problem{kind: bodyTimeout, detail: "must arrive within " + a.limits.BodyTimeout.String()}
	}
	return &problem{kind: bodyIncomplete, detail: "must have the length that its headers announce"}
}

// bodyType returns which of the allowed types the body has; the first stands for none.
func bodyType(r *http.Request, allowed ...string) (string, *problem) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return "", &problem{kind: unsupportedBody, field: "Content-Encoding",
			detail: "must be absent: compressed bodies are not taken"}
	}
	given := r.Header.Get("Content-Type")
	if given == "" || given == allowed[0] {
		return allowed[0], nil
	}
	media, params, err := mime.ParseMediaType(given)
	charset := params["charset"]
	if err == nil && (charset == "" || strings.EqualFold(charset, "utf-8")) {
		for _, a := range allowed {
			if media == a {
				return a, nil
			}
		}
	}
	return "", &problem{kind: unsupportedBody, field: "Content-Type",
		detail: "must be " + strings.Join(allowed, " or ") + ", in UTF-8"}
}

// formatBytes writes a limit for people.
func formatBytes(n int) string {
	switch {
	case n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}
