// SPDX-License-Identifier: Apache-2.0

// Package keyfile finds keys and certificates in credential files. If a file is in another format,
// the error names the format and the command that converts it. No error contains a part of a file.
package keyfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"unicode/utf16"
)

// Text returns the content of a text file in UTF-8 and without a byte order mark, which editors and
// shells of Windows write. It converts UTF-16 with a byte order mark, and returns anything else
// unchanged.
func Text(content []byte) []byte {
	if text, ok := bytes.CutPrefix(content, []byte("\ufeff")); ok {
		return text
	}
	var order binary.ByteOrder
	switch {
	case len(content)%2 != 0:
		return content
	case bytes.HasPrefix(content, []byte{0xff, 0xfe}):
		order = binary.LittleEndian
	case bytes.HasPrefix(content, []byte{0xfe, 0xff}):
		order = binary.BigEndian
	default:
		return content
	}
	units := make([]uint16, 0, len(content)/2-1)
	for rest := content[2:]; len(rest) > 0; rest = rest[2:] {
		units = append(units, order.Uint16(rest))
	}
	return []byte(string(utf16.Decode(units)))
}

// Key returns the first PEM block of text that has one of the types. The error of a text without
// such a block says what the text is instead.
func Key(text []byte, types ...string) (*pem.Block, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if slices.Contains(types, block.Type) && block.Headers["DEK-Info"] == "" {
			return block, nil
		}
	}
	found := detect(text)
	return nil, errors.New("the file must have a PEM block " + strings.Join(types, " or ") + found.advice(found.toKey))
}

// CheckCertificate returns an error if text has no PEM block with a certificate. The error says
// what the text is instead.
func CheckCertificate(text []byte) error {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return nil
		}
	}
	found := detect(text)
	return errors.New("the file must have a PEM block CERTIFICATE" + found.advice(found.toCertificate))
}

// Describe returns what the file is, such as "a PKCS #12 file (.p12 or .pfx)", or "" if its format is
// unknown.
func Describe(text []byte) string { return detect(text).name }

// advice returns the end of an error's text.
func (f format) advice(command string) string {
	switch {
	case f.name == "":
		return ""
	case command == "":
		return ", but it is " + f.name
	}
	return ", but it is " + f.name + ": " + command
}

// DescribeKey returns what kind of private key a key is, such as "an RSA key".
func DescribeKey(key any) string {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return "an RSA key"
	case *ecdsa.PrivateKey:
		return "an elliptic curve key on " + key.Curve.Params().Name
	case ed25519.PrivateKey:
		return "an Ed25519 key"
	default:
		return "a key of another kind"
	}
}
