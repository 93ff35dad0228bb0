// SPDX-License-Identifier: Apache-2.0

package broadcast

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-push/sluice/internal/audience"
)

// MaxMerged is how many broadcasts Devices accepts.
const MaxMerged = 100

// Devices are the estimated numbers of unique devices in the audiences of broadcasts.
type Devices struct {
	// Unique is the number in all audiences together: a device in several of them counts once.
	Unique uint64 `json:"unique_devices"`
	// StandardError is that of each number, as a fraction of it.
	StandardError float64           `json:"standard_error"`
	Broadcasts    []AudienceDevices `json:"broadcasts"`
}

// AudienceDevices is the estimated number of unique devices in the audience of a broadcast.
type AudienceDevices struct {
	ID     string `json:"id"`
	Name   string `json:"name,omitempty"`
	Unique uint64 `json:"unique_devices"`
}

// ErrNoUpload means that a broadcast is sent to a topic, condition or channel, whose devices only the
// provider knows.
var ErrNoUpload = errors.New("broadcast: only the provider knows the devices of a topic, condition or channel")

// ItemError is the error of one of several broadcasts.
type ItemError struct {
	Index int // of its ID
	Err   error
}

// Error returns the text of the error with the number of the ID.
func (e *ItemError) Error() string { return fmt.Sprintf("broadcast: ID %d: %v", e.Index+1, e.Err) }

// Unwrap returns the error.
func (e *ItemError) Unwrap() error { return e.Err }

// Devices estimates how many unique devices the audiences of broadcasts of an app have: those of the lines
// that can be sent. An ID that is repeated counts once. The error is an *ItemError.
func (m *Manager) Devices(ctx context.Context, app string, ids []string) (*Devices, error) {
	found := &Devices{StandardError: audience.SketchError, Broadcasts: []AudienceDevices{}}
	all, seen := audience.NewSketch(), map[string]bool{}
	for i, id := range ids {
		if seen[id] {
			continue
		}
		seen[id] = true
		b, sketch, err := m.sketch(ctx, app, id)
		if err == nil {
			err = all.Merge(sketch)
		}
		if err != nil {
			return nil, &ItemError{i, err}
		}
		found.Broadcasts = append(found.Broadcasts, AudienceDevices{b.ID, b.Name, sketch.Count()})
	}
	found.Unique = all.Count()
	return found, nil
}

// sketch returns a broadcast with the sketch that its validation has stored.
func (m *Manager) sketch(ctx context.Context, app, id string) (*document, *audience.Sketch, error) {
	b, err := m.find(ctx, app, id, 0)
	if err != nil {
		return nil, nil, err
	}
	if _, single := b.Audience.target(); single {
		return nil, nil, ErrNoUpload
	}
	if len(b.Sketch) == 0 {
		return nil, nil, b.conflict("the broadcast is not validated")
	}
	data, err := m.store.get(ctx, b.ID, sketchData, b.Sketch)
	if err != nil {
		return nil, nil, err
	}
	s := new(audience.Sketch)
	if err := s.UnmarshalBinary(data); err != nil {
		return nil, nil, fmt.Errorf("broadcast: damaged sketch: %w", err)
	}
	return b, s, nil
}
