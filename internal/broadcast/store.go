// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// The names of the stream with the data of broadcasts and of the bucket with their documents. They are on
// disk.
const (
	Stream        = "SLUICE_BROADCASTS"
	subjectPrefix = "sluice.broadcast."
)

// The kinds of data of a broadcast. Each is the last part of a subject.
const (
	audienceData = "audience" // the upload
	planData     = "plan"     // what a validation has found
	listingData  = "invalid"  // the lines that cannot be sent
	sketchData   = "devices"  // the sketch of the devices
	resultsData  = "results"  // the tally after the end
)

// The headers of the messages of an upload: the bytes and the lines up to the end of the message, and
// document.UploadAfter, which identifies the upload.
const (
	offsetHeader = "Sluice-Offset"
	lineHeader   = "Sluice-Line"
	uploadHeader = "Sluice-Upload"
)

// maxPiece is the size of a message before compression. NATS servers accept 1 MiB by default.
const maxPiece = 256 << 10

// store has the documents and the data of broadcasts.
type store struct {
	engine *jetstream.Engine
	stream natsjs.Stream
	docs   *jetstream.Bucket
}

func openStore(ctx context.Context, e *jetstream.Engine) (*store, error) {
	stream, err := e.Stream(ctx, natsjs.StreamConfig{
		Name: Stream, Subjects: []string{subjectPrefix + "*.*"}, Retention: natsjs.LimitsPolicy, Discard: natsjs.DiscardOld, AllowDirect: true,
	})
	if err != nil {
		return nil, err
	}
	s := &store{engine: e, stream: stream, docs: e.Bucket(natsjs.KeyValueConfig{Bucket: Stream, Storage: natsjs.FileStorage})}
	return s, s.docs.Open(ctx)
}

func subject(id, kind string) string { return subjectPrefix + id + "." + kind }

// load returns a broadcast. The error is ErrNotFound if there is none.
func (s *store) load(ctx context.Context, id string) (*document, error) {
	text, revision, err := s.docs.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if revision == 0 {
		return nil, ErrNotFound
	}
	return s.decodeDocument(text, revision)
}

func (s *store) decodeDocument(sealed []byte, revision uint64) (*document, error) {
	text, err := s.engine.Unseal(sealed)
	if err != nil {
		return nil, fmt.Errorf("broadcast: document: %w", err)
	}
	b := new(document)
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("broadcast: document: %w", err)
	}
	b.Revision = revision
	return b, nil
}

// save stores a broadcast that was loaded or is new. The error is ErrChanged if it has changed meanwhile.
func (s *store) save(ctx context.Context, b *document) error {
	text, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	revision, err := s.docs.CompareAndSet(ctx, b.ID, s.engine.Seal(text), b.Revision)
	if errors.Is(err, jetstream.ErrChanged) {
		return ErrChanged
	}
	if err == nil {
		b.Revision = revision
	}
	return err
}

// list returns all broadcasts. With an error, it returns those that can be read.
func (s *store) list(ctx context.Context) (all []*document, err error) {
	entries, err := s.docs.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		b, decodeErr := s.decodeDocument(e.Value, e.Revision)
		if decodeErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", e.Key, decodeErr))
			continue
		}
		all = append(all, b)
	}
	return all, err
}

// remove deletes a broadcast with all its data.
func (s *store) remove(ctx context.Context, id string) error {
	for _, kind := range [...]string{audienceData, planData, listingData, sketchData, resultsData} {
		if err := s.purge(ctx, id, kind); err != nil {
			return err
		}
	}
	return s.docs.Delete(ctx, id)
}

func (s *store) purge(ctx context.Context, id, kind string) error {
	if err := s.stream.Purge(ctx, natsjs.WithPurgeSubject(subject(id, kind))); err != nil {
		return fmt.Errorf("broadcast: %w", err)
	}
	return nil
}

// uploadEnd is how far an upload has come.
type uploadEnd struct {
	seq    uint64 // of the last message; 0 for none
	offset int64
	lines  uint32
}

// lastSeq returns the sequence of the last message of the stream.
func (s *store) lastSeq(ctx context.Context) (uint64, error) {
	info, err := jetstream.Info(ctx, s.stream)
	if err != nil {
		return 0, fmt.Errorf("broadcast: %w", err)
	}
	return info.State.LastSeq, nil
}

// uploaded returns how far the upload of a broadcast has come.
func (s *store) uploaded(ctx context.Context, b *document) (end uploadEnd, err error) {
	m, err := s.stream.GetLastMsgForSubject(ctx, subject(b.ID, audienceData))
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return end, nil
	}
	if err != nil {
		return end, fmt.Errorf("broadcast: %w", err)
	}
	if !b.isOfUpload(m) {
		return uploadEnd{seq: m.Sequence}, nil
	}
	return readEnd(m)
}

// isOfUpload reports whether a message is of the current upload, and not of one that it has replaced.
func (b *document) isOfUpload(m *natsjs.RawStreamMsg) bool {
	return m.Header.Get(uploadHeader) == strconv.FormatUint(b.UploadAfter, 10)
}

func readEnd(m *natsjs.RawStreamMsg) (end uploadEnd, err error) {
	offset, err1 := strconv.ParseInt(m.Header.Get(offsetHeader), 10, 64)
	lines, err2 := strconv.ParseUint(m.Header.Get(lineHeader), 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return end, fmt.Errorf("broadcast: damaged upload: %w", err)
	}
	return uploadEnd{m.Sequence, offset, uint32(lines)}, nil
}

// ErrOtherUpload means that another upload has stored something meanwhile.
var ErrOtherUpload = errors.New("broadcast: another upload is in progress")

// appendUpload stores the next piece of an upload after end, and returns the new end when it is on disk.
func (s *store) appendUpload(ctx context.Context, b *document, end uploadEnd, piece []byte) (uploadEnd, error) {
	next := uploadEnd{offset: end.offset + int64(len(piece)), lines: end.lines + uint32(bytes.Count(piece, []byte{'\n'}))}
	m := &nats.Msg{Subject: subject(b.ID, audienceData), Data: s.engine.Seal(s2.Encode(nil, piece)), Header: nats.Header{
		offsetHeader: {strconv.FormatInt(next.offset, 10)}, lineHeader: {strconv.FormatUint(uint64(next.lines), 10)},
		uploadHeader: {strconv.FormatUint(b.UploadAfter, 10)},
	}}
	ack, err := s.engine.JetStream().PublishMsg(ctx, m, natsjs.WithExpectLastSequencePerSubject(end.seq))
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && api.ErrorCode == natsjs.JSErrCodeStreamWrongLastSequence {
		return end, ErrOtherUpload
	}
	if err != nil {
		return end, fmt.Errorf("broadcast: %w", err)
	}
	next.seq = ack.Sequence
	return next, nil
}

// nextPiece returns the first message of a kind from seq on, or nil if there is none.
func (s *store) nextPiece(ctx context.Context, id, kind string, seq uint64) (*natsjs.RawStreamMsg, []byte, error) {
	m, err := s.stream.GetMsg(ctx, max(seq, 1), natsjs.WithGetMsgSubject(subject(id, kind)))
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("broadcast: %w", err)
	}
	data, err := s.engine.Unseal(m.Data)
	if err == nil {
		data, err = s2.Decode(nil, data)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("broadcast: damaged %s: %w", kind, err)
	}
	return m, data, nil
}

// put stores data of a kind. It returns the messages that hold it. It leaves those of earlier data: two
// gateways can store data at the same time, and the document says whose is valid.
func (s *store) put(ctx context.Context, id, kind string, data []byte) (p pieces, err error) {
	for len(data) > 0 {
		piece := data[:min(len(data), maxPiece)]
		data = data[len(piece):]
		seq, err := s.appendPiece(ctx, id, kind, piece)
		if err != nil {
			return p, err
		}
		p = append(p, seq)
	}
	return p, nil
}

// appendPiece stores a message, and returns its sequence.
func (s *store) appendPiece(ctx context.Context, id, kind string, piece []byte) (uint64, error) {
	ack, err := s.engine.JetStream().Publish(ctx, subject(id, kind), s.engine.Seal(s2.Encode(nil, piece)))
	if err != nil {
		return 0, fmt.Errorf("broadcast: %w", err)
	}
	return ack.Sequence, nil
}

// purgeBefore frees the space of data of a kind that is not valid any more.
func (s *store) purgeBefore(ctx context.Context, id, kind string, seq uint64) {
	_ = s.stream.Purge(ctx, natsjs.WithPurgeSubject(subject(id, kind)), natsjs.WithPurgeSequence(seq)) // otherwise remove does
}

// pieces are the sequences of messages that hold data.
type pieces []uint64

// get returns the data in pieces.
func (s *store) get(ctx context.Context, id, kind string, p pieces) (data []byte, err error) {
	for _, seq := range p {
		m, piece, err := s.nextPiece(ctx, id, kind, seq)
		if err != nil {
			return nil, err
		}
		if m == nil || m.Sequence != seq {
			return nil, fmt.Errorf("broadcast: the %s is not stored any more", kind)
		}
		data = append(data, piece...)
	}
	return data, nil
}

// isID reports whether text can be the ID of a broadcast, in the only form that is stored.
func isID(text string) bool {
	return len(text) == 36 && !strings.ContainsFunc(text, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'f')
	})
}
