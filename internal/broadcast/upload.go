// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sluice-push/sluice/internal/audience"
)

// UploadRequest is a request to upload an audience, or a part of it.
type UploadRequest struct {
	Caller string
	// Format is that of the text. It is empty if the request continues an upload.
	Format audience.Format
	// Replace starts over. Otherwise Offset must be where the upload has ended.
	Replace bool
	Offset  int64
	// Partial is set if a later request continues the upload.
	Partial bool
	// Revision must be that of the broadcast, if it is not zero.
	Revision uint64
}

// Errors of an upload.
var (
	// ErrUploadTooLarge means that the audience has more bytes or lines than are allowed.
	ErrUploadTooLarge = errors.New("broadcast: the audience is too large")
	// ErrLineTooLong means that a line does not fit into a message.
	ErrLineTooLong = errors.New("broadcast: line is too long")
)

// OffsetError means that an upload must continue at another offset.
type OffsetError struct{ Offset int64 }

// Error names the offset.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("broadcast: the upload continues at offset %d", e.Offset)
}

// Upload stores a part of the audience. Offset is how many bytes are on disk, whatever the error is: up to
// the end of a line, unless the upload is complete. The caller continues there.
func (m *Manager) Upload(ctx context.Context, app, id string, u UploadRequest, in io.Reader) (v *View, offset int64, err error) {
	b, err := m.find(ctx, app, id, u.Revision)
	if err != nil {
		return nil, 0, err
	}
	if b.State != Draft && b.State != Ready {
		return nil, 0, b.conflict("an audience can be uploaded only before the broadcast starts")
	}
	if _, single := b.Audience.target(); single {
		return nil, 0, b.conflict("the broadcast has a topic, condition or channel as its audience")
	}
	if b.Upload != nil && b.Upload.Complete && !u.Replace {
		if u.Partial || u.Offset != b.Upload.Bytes || !isEmpty(in) {
			return nil, b.Upload.Bytes, b.conflict("the upload is complete")
		}
		v, err = m.view(ctx, b) // the last part is repeated
		return v, b.Upload.Bytes, err
	}
	end, err := m.startUpload(ctx, b, u)
	if err != nil {
		return nil, end.offset, err
	}
	if end, err = m.storeUpload(ctx, b, end, in, u.Partial); err != nil {
		return nil, end.offset, err
	}
	b.Upload.Bytes, b.Upload.Complete = end.offset, !u.Partial
	if err := m.save(ctx, b); err != nil {
		return nil, end.offset, err
	}
	v, err = m.view(ctx, b)
	return v, end.offset, err
}

// isEmpty reports whether in has ended.
func isEmpty(in io.Reader) bool {
	_, err := io.ReadFull(in, make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// startUpload prepares the broadcast for a part of an upload, and returns where it starts.
func (m *Manager) startUpload(ctx context.Context, b *document, u UploadRequest) (end uploadEnd, err error) {
	if !u.Replace {
		if b.Upload == nil {
			return end, &OffsetError{}
		}
		if end, err = m.store.uploaded(ctx, b); err != nil {
			return end, err
		}
		switch {
		case u.Offset != end.offset:
			return end, &OffsetError{end.offset}
		case u.Format != "" && u.Format != b.Upload.Format:
			return end, b.conflict("the upload has started as %s", b.Upload.Format)
		}
		if b.addAuthor(u.Caller) {
			return end, m.save(ctx, b)
		}
		return end, nil
	}
	if b.UploadAfter, err = m.store.lastSeq(ctx); err != nil {
		return end, err
	}
	b.State, b.Upload = Draft, &Upload{Format: u.Format}
	b.dropValidation()
	b.addAuthor(u.Caller)
	if err := m.save(ctx, b); err != nil {
		return end, err
	}
	m.store.purgeBefore(ctx, b.ID, audienceData, b.UploadAfter+1)
	if end, err = m.store.uploaded(ctx, b); err == nil && end.offset > 0 { // another request has continued this upload
		err = ErrOtherUpload
	}
	return end, err
}

// dropValidation forgets what a validation has found, because it is no longer true.
func (b *document) dropValidation() {
	b.Validation, b.Plan, b.Listing, b.Sketch, b.Problem, b.ApprovedBy = nil, nil, nil, nil, "", ""
}

// storeUpload stores in in messages that end with a line, except for the last one of a complete upload. It
// leaves a part of a line at the end of a partial one.
func (m *Manager) storeUpload(ctx context.Context, b *document, end uploadEnd, in io.Reader, partial bool) (uploadEnd, error) {
	piece, kept := make([]byte, maxPiece), 0
	for {
		filled, readErr := fill(in, piece, kept)
		ended, whole := errors.Is(readErr, io.EOF), filled
		if !ended || partial {
			whole = bytes.LastIndexByte(piece[:filled], '\n') + 1
		}
		if whole == 0 && readErr == nil {
			return end, ErrLineTooLong
		}
		if end.offset+int64(whole) > m.cfg.MaxBytes || uint64(end.lines)+countLines(piece[:whole]) > m.cfg.MaxLines {
			return end, ErrUploadTooLarge
		}
		if whole > 0 {
			if err := m.cfg.Queue.Ready(); err != nil {
				return end, err
			}
			next, err := m.store.appendUpload(ctx, b, end, piece[:whole])
			if err != nil {
				return end, err
			}
			end = next
		}
		if ended {
			return end, nil
		}
		if readErr != nil {
			return end, readErr
		}
		kept = copy(piece, piece[whole:filled])
	}
}

// countLines returns how many lines a text has. The last one need not have a line break.
func countLines(text []byte) uint64 {
	lines := bytes.Count(text, []byte{'\n'})
	if len(text) > 0 && text[len(text)-1] != '\n' {
		lines++
	}
	return uint64(lines)
}

// fill reads until b is full. Unlike with io.ReadFull, the error io.EOF means that in has ended, and
// io.ErrUnexpectedEOF that the caller has disconnected.
func fill(in io.Reader, b []byte, filled int) (int, error) {
	for filled < len(b) {
		n, err := in.Read(b[filled:])
		if filled += n; err != nil {
			return filled, err
		}
	}
	return filled, nil
}

// Uploaded returns how many bytes of the audience are on disk, and whether the upload is complete.
func (m *Manager) Uploaded(ctx context.Context, app, id string) (offset int64, complete bool, err error) {
	b, err := m.find(ctx, app, id, 0)
	if err != nil || b.Upload == nil {
		return 0, false, err
	}
	if b.Upload.Complete {
		return b.Upload.Bytes, true, nil
	}
	end, err := m.store.uploaded(ctx, b)
	return end.offset, false, err
}

// uploadReader reads an audience.
type uploadReader struct {
	ctx    context.Context
	store  *store
	b      *document
	next   uint64 // the message after the last one read
	before uploadEnd
	rest   []byte
	chunks []chunk // that were read
}

// chunk is a message of an audience: where it starts, and the lines before it.
type chunk struct {
	Seq    uint64 `json:"seq"`
	Offset int64  `json:"offset"`
	Line   uint32 `json:"line"`
}

var errIncomplete = errors.New("broadcast: a part of the audience is missing")

// Read implements io.Reader.
func (r *uploadReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.before.offset == r.b.Upload.Bytes { // later messages are of a request that came too late
			return 0, io.EOF
		}
		m, data, err := r.store.nextPiece(r.ctx, r.b.ID, audienceData, r.next)
		if err != nil {
			return 0, err
		}
		if m == nil { // also at a server of a cluster that does not have the message yet
			return 0, errIncomplete
		}
		r.next = m.Sequence + 1
		if !r.b.isOfUpload(m) {
			continue
		}
		end, err := readEnd(m)
		if err != nil {
			return 0, err
		}
		if start := end.offset - int64(len(data)); start != r.before.offset {
			return 0, errIncomplete
		}
		r.chunks = append(r.chunks, chunk{m.Sequence, r.before.offset, r.before.lines})
		r.before, r.rest = end, data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
