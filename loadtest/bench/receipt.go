// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// What becomes of a notification, beside the words of receipts: rejected are those that the gateway took nothing of, and
// for lost ones there is no verdict.
const (
	accepted = "accepted"
	rejected = "rejected"
	lost     = "lost"
)

// verdict is what an answer says of one notification.
type verdict struct {
	status, reason string
	attempts       []attempt
	latency        time.Duration // from when it was due
	sent           time.Duration // from when its call was sent
}

// attempt is one send on one endpoint.
type attempt struct {
	endpoint string
	accepted bool
	took     time.Duration
}

// parser reads receipts. What it returns is valid until the next one. It looks only for what it needs, and makes no
// garbage: in a batch it costs as much as all else that is done for a notification here.
type parser struct {
	decoder jsontext.Decoder
	text    bytes.Buffer
	words   map[string]string
	v       verdict
}

// word keeps one copy of each, for there are few words and many receipts.
func (p *parser) word(text []byte) string {
	if known, ok := p.words[string(text)]; ok {
		return known
	}
	if p.words == nil || len(p.words) > 10_000 {
		p.words = map[string]string{}
	}
	word := string(text)
	p.words[word] = word
	return word
}

// single reads the answer to a call of its own.
func (p *parser) single(status int, text []byte) (*verdict, error) {
	if status == 200 || status == 202 {
		return p.receipt(text)
	}
	var problem struct {
		Detail  string
		Receipt json.RawMessage
	}
	if json.Unmarshal(text, &problem) == nil && problem.Receipt != nil {
		return p.receipt(problem.Receipt)
	}
	p.v = verdict{status: rejected, reason: strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, problem.Detail))}
	return &p.v, nil
}

// receipt reads a receipt.
func (p *parser) receipt(text []byte) (*verdict, error) {
	p.v = verdict{attempts: p.v.attempts[:0]}
	p.text = *bytes.NewBuffer(text)
	p.decoder.Reset(&p.text)
	err := p.members(func(name []byte) error {
		switch string(name) {
		case `"status"`:
			return p.take(&p.v.status)
		case `"reason"`:
			return p.take(&p.v.reason)
		case `"attempts"`:
			return p.attempts()
		default:
			return p.decoder.SkipValue()
		}
	})
	if err == nil && p.v.status == "" {
		err = fmt.Errorf("no status in it")
	}
	if err != nil {
		return nil, fmt.Errorf("a receipt cannot be read: %w", err)
	}
	return &p.v, nil
}

// members hands every member's name to read, which reads its value.
func (p *parser) members(read func(name []byte) error) error {
	if kind := p.decoder.PeekKind(); kind != '{' {
		return fmt.Errorf("it is no object")
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return err
	}
	for p.decoder.PeekKind() != '}' {
		name, err := p.decoder.ReadValue()
		if err != nil {
			return err
		}
		if err := read(name); err != nil {
			return err
		}
	}
	_, err := p.decoder.ReadToken()
	return err
}

// take reads a text that is one of few.
func (p *parser) take(to *string) error {
	value, err := p.decoder.ReadValue()
	if err != nil || len(value) < 2 {
		return err
	}
	*to = p.word(value[1 : len(value)-1])
	return nil
}

func (p *parser) attempts() error {
	if p.decoder.PeekKind() != '[' {
		return p.decoder.SkipValue()
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return err
	}
	for p.decoder.PeekKind() != ']' {
		p.v.attempts = append(p.v.attempts, attempt{})
		if err := p.attempt(&p.v.attempts[len(p.v.attempts)-1]); err != nil {
			return err
		}
	}
	_, err := p.decoder.ReadToken()
	return err
}

func (p *parser) attempt(a *attempt) error {
	return p.members(func(name []byte) error {
		switch string(name) {
		case `"endpoint"`:
			return p.take(&a.endpoint)
		case `"status"`:
			var status string
			err := p.take(&status)
			a.accepted = status == accepted
			return err
		case `"ms"`:
			token, err := p.decoder.ReadToken()
			if err == nil && token.Kind() == '0' {
				ms, _ := token.Float()
				a.took = time.Duration(ms * float64(time.Millisecond))
			}
			return err
		default:
			return p.decoder.SkipValue()
		}
	})
}
