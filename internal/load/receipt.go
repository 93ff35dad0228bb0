// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// parser parses receipts. A returned result is valid until the next call. The parser reads only
// the members it needs and does not allocate: in batches it uses half of bench's CPU time.
type parser struct {
	decoder  jsontext.Decoder
	buffer   bytes.Buffer
	interned map[string]string
	result   Result
}

// noIndex is the index of a receipt without one.
const noIndex = -1

// intern returns a shared copy of text. Receipts are many, but their distinct words are few.
func (p *parser) intern(text []byte) string {
	if shared, ok := p.interned[string(text)]; ok {
		return shared
	}
	if p.interned == nil || len(p.interned) > 10_000 {
		p.interned = map[string]string{}
	}
	word := string(text)
	p.interned[word] = word
	return word
}

// parseResponse parses the response to a single call: a receipt, or a problem that may contain one.
func (p *parser) parseResponse(status int, text []byte) (*Result, error) {
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
	p.result = Result{Index: noIndex, Status: Rejected, Reason: strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, problem.Detail))}
	return &p.result, nil
}

// parseReceipt parses a receipt.
func (p *parser) parseReceipt(text []byte) (*Result, error) {
	p.result = Result{Index: noIndex, ID: p.result.ID[:0], Attempts: p.result.Attempts[:0]}
	p.buffer = *bytes.NewBuffer(text)
	p.decoder.Reset(&p.buffer)
	err := p.readObject(func(name []byte) error {
		switch string(name) {
		case `"id"`:
			value, err := p.decoder.ReadValue()
			p.result.ID = append(p.result.ID[:0], bytes.Trim(value, `"`)...)
			return err
		case `"index"`:
			token, err := p.decoder.ReadToken()
			if err == nil && token.Kind() == '0' {
				index, _ := token.Int()
				p.result.Index = int(index)
			}
			return err
		case `"status"`:
			return p.readString(&p.result.Status)
		case `"reason"`:
			return p.readString(&p.result.Reason)
		case `"attempts"`:
			return p.readAttempts()
		default:
			return p.decoder.SkipValue()
		}
	})
	if err == nil && p.result.Status == "" {
		err = fmt.Errorf("no status")
	}
	if err != nil {
		return nil, fmt.Errorf("invalid receipt: %w", err)
	}
	return &p.result, nil
}

// readObject calls read with the name of each member, in quotes. read must consume the value.
func (p *parser) readObject(read func(name []byte) error) error {
	if kind := p.decoder.PeekKind(); kind != '{' {
		return fmt.Errorf("not an object")
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

// readString reads an interned string without unescaping it.
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
		p.result.Attempts = append(p.result.Attempts, Attempt{})
		if err := p.readAttempt(&p.result.Attempts[len(p.result.Attempts)-1]); err != nil {
			return err
		}
	}
	_, err := p.decoder.ReadToken()
	return err
}

func (p *parser) readAttempt(a *Attempt) error {
	return p.readObject(func(name []byte) error {
		switch string(name) {
		case `"endpoint"`:
			return p.readString(&a.Endpoint)
		case `"status"`:
			return p.readString(&a.Status)
		case `"ms"`:
			token, err := p.decoder.ReadToken()
			if err == nil && token.Kind() == '0' {
				ms, _ := token.Float()
				a.Took = time.Duration(ms * float64(time.Millisecond))
			}
			return err
		default:
			return p.decoder.SkipValue()
		}
	})
}
