// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// send handles POST /v1/apps/{app}/notifications.
func (s *server) send(w *response, r *http.Request) *problem {
	async, p := s.preferAsync(r)
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
	if p := s.readBody(w, r, body); p != nil {
		return p
	}
	n, lists, p := decode(body.Bytes())
	if p == nil {
		p = cmp.Or(s.checkMode(n, async), w.access.checkTarget(n))
	}
	if p != nil {
		return p
	}
	n.App, n.AcceptedAt, n.Trace = w.app, time.Now(), w.call.Trace
	subs := expand(n, lists, key, body.Bytes())
	w.count = len(subs)
	if p := w.access.takeRate(w.count); p != nil {
		return p
	}
	wait := preferredWait(r)
	for _, sub := range subs {
		sub.maxWait = wait
	}
	if lists != nil {
		return s.sendEach(w, r, subs, async)
	}
	sub := subs[0]
	w.call.SetNotification(sub.ID)
	if async {
		s.enqueue(r.Context(), subs)
	} else {
		limits := w.access.caller.Limits
		if p := w.access.limitProblem(limits.TryAcquire()); p != nil {
			return p
		}
		defer limits.Release(1)
		s.deliver(r.Context(), sub)
	}
	if r.Context().Err() == nil {
		body.Reset() // nothing refers to it any more
		sub.reply(w, async, body.AvailableBuffer()).write(w)
	}
	return nil
}

// bufferPool holds buffers for bodies and responses.
var bufferPool = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// putBuffer returns a buffer to the pool, unless it is unusually large.
func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= 256<<10 {
		b.Reset()
		bufferPool.Put(b)
	}
}

// byteOrderMark is U+FEFF in UTF-8. Some editors and libraries write it at the start of a text, and it is
// ignored there (RFC 8259 §8.1).
var byteOrderMark = []byte("\ufeff")

// readBody reads the whole body into b, without a byte order mark. The size is limited by Limits.Body and
// the time by the deadline that authorize set. net/http removes the deadline at the end of the body: it
// reads on, to detect that the client disconnects.
func (s *server) readBody(w *response, r *http.Request, b *bytes.Buffer) *problem {
	if r.ContentLength > int64(s.limits.Body) {
		return s.bodyTooLarge()
	}
	src := r.Body
	if r.ContentLength < 0 {
		src = http.MaxBytesReader(w.ResponseWriter, src, int64(s.limits.Body))
	}
	if _, err := b.ReadFrom(src); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return s.bodyTooLarge()
		}
		return s.bodyProblem(err)
	}
	if bytes.HasPrefix(b.Bytes(), byteOrderMark) {
		b.Next(len(byteOrderMark))
	}
	return nil
}

func (s *server) bodyTooLarge() *problem {
	return &problem{kind: bodyTooLarge, detail: "must have at most " + formatBytes(s.limits.Body)}
}

// bodyProblem returns the problem for an error while reading the body.
func (s *server) bodyProblem(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &problem{kind: bodyTimeout, detail: "must arrive within " + s.limits.BodyTimeout.String()}
	}
	return &problem{kind: bodyIncomplete, detail: "must have the length that its headers declare"}
}

// bodyType returns which of the allowed types the body has. The first one is the default.
func bodyType(r *http.Request, allowed ...string) (string, *problem) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return "", &problem{kind: unsupportedBody, field: "Content-Encoding",
			detail: "must be absent: compressed bodies are not supported"}
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

// formatBytes formats a size limit.
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
