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
	statusAccepted = "accepted"
	statusRejected = "rejected"
	statusLost     = "lost"
)

// verdict is what an answer says of one notification.
type verdict struct {
	status, reason string
	attempts       []attempt
	latency        time.Duration // from when it was due
	sinceSent      time.Duration // from when its call was sent
}

// attempt is one send on one endpoint.
type attempt struct {
	endpoint string
	accepted bool
	duration time.Duration
}

// parser reads receipts. What it returns is valid until the next one. It looks only for what it needs, and makes no
// garbage: in a batch it costs as much as all else that is done for a notification here.
type parser struct {
	decoder  jsontext.Decoder
	buffer   bytes.Buffer
	interned map[string]string
	verdict  verdict
}

// intern keeps one copy of each, for there are few words and many receipts.
func (p *parser) intern(text []byte) string {
	if known, ok := p.interned[string(text)]; ok {
		return known
	}
	if p.interned == nil || len(p.interned) > 10_000 {
		p.interned = map[string]string{}
	}
	word := string(text)
	p.interned[word] = word
	return word
}

// parseResponse reads the answer to a call of its own.
func (p *parser) parseResponse(status int, text []byte) (*verdict, error) {
	if status == 200 || status == 202 {
		return p.parseReceipt(text)
	}
	var problem struct {
		Detail  string
		Receipt json.RawMessage
	}
	if json.Unmarshal(text, &problem) == nil && problem.Receipt != nil {
		return p.parseReceipt(problem.Receipt)
	}
	p.verdict = verdict{status: statusRejected, reason: strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, problem.Detail))}
	return &p.verdict, nil
}

// parseReceipt reads a receipt.
func (p *parser) parseReceipt(text []byte) (*verdict, error) {
	p.verdict = verdict{attempts: p.verdict.attempts[:0]}
	p.buffer = *bytes.NewBuffer(text)
	p.decoder.Reset(&p.buffer)
	err := p.readObject(func(name []byte) error {
		switch string(name) {
		case `"status"`:
			return p.readString(&p.verdict.status)
		case `"reason"`:
			return p.readString(&p.verdict.reason)
		case `"attempts"`:
			return p.readAttempts()
		default:
			return p.decoder.SkipValue()
		}
	})
	if err == nil && p.verdict.status == "" {
		err = fmt.Errorf("no status in it")
	}
	if err != nil {
		return nil, fmt.Errorf("a receipt cannot be read: %w", err)
	}
	return &p.verdict, nil
}

// readObject hands every member's name to read, which reads its value.
func (p *parser) readObject(read func(name []byte) error) error {
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

// readString reads a text that is one of few.
func (p *parser) readString(to *string) error {
	value, err := p.decoder.ReadValue()
	if err != nil || len(value) < 2 {
		return err
	}
	*to = p.intern(value[1 : len(value)-1])
	return nil
}

func (p *parser) readAttempts() error {
	if p.decoder.PeekKind() != '[' {
		return p.decoder.SkipValue()
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return err
	}
	for p.decoder.PeekKind() != ']' {
		p.verdict.attempts = append(p.verdict.attempts, attempt{})
		if err := p.readAttempt(&p.verdict.attempts[len(p.verdict.attempts)-1]); err != nil {
			return err
		}
	}
	_, err := p.decoder.ReadToken()
	return err
}

func (p *parser) readAttempt(a *attempt) error {
	return p.readObject(func(name []byte) error {
		switch string(name) {
		case `"endpoint"`:
			return p.readString(&a.endpoint)
		case `"status"`:
			var status string
			err := p.readString(&status)
			a.accepted = status == statusAccepted
			return err
		case `"ms"`:
			token, err := p.decoder.ReadToken()
			if err == nil && token.Kind() == '0' {
				ms, _ := token.Float()
				a.duration = time.Duration(ms * float64(time.Millisecond))
			}
			return err
		default:
			return p.decoder.SkipValue()
		}
	})
}
