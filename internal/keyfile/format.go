// SPDX-License-Identifier: Apache-2.0

package keyfile

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
)

// format is the format of a file.
type format struct {
	name string // such as "a certificate"; "" if unknown
	// toKey and toCertificate are how to get a private key or a certificate in PEM from the file.
	toKey, toCertificate string
}

const (
	otherKey         = "use the file of its private key"
	otherCertificate = "use the file of the certificate"
)

var (
	empty      = format{name: "empty"}
	truncated  = format{name: "a PEM file without an END line (is it truncated?)"}
	escaped    = format{"a PEM file with the characters \\n instead of line breaks", "replace them by line breaks", "replace them by line breaks"}
	utf16Text  = format{"text in UTF-16", "save it as UTF-8", "save it as UTF-8"}
	certFormat = format{"a certificate", otherKey, ""}
	derCert    = format{"a certificate in DER (.cer)", otherKey, "convert it with: openssl x509 -inform DER -in FILE -out cert.pem"}
	derKey     = format{"a private key in DER", "convert it with: openssl pkey -inform DER -in FILE -out key.pem", otherCertificate}
	publicKey  = format{"a public key", "use the file of its private key, which cannot be computed from the public key", otherCertificate}
	encrypted  = format{"an encrypted private key", "decrypt it with: openssl pkey -in FILE -out key.pem", otherCertificate}
	derSecret  = format{"an encrypted private key in DER", "decrypt it with: openssl pkcs8 -inform DER -in FILE -out key.pem", otherCertificate}
	pkcs12     = format{
		"a PKCS #12 file (.p12 or .pfx)",
		"get the key with: openssl pkcs12 -in FILE -nocerts -nodes -out key.pem (OpenSSL 3 needs -legacy for older files)",
		"get the certificate with: openssl pkcs12 -in FILE -clcerts -nokeys -out cert.pem (OpenSSL 3 needs -legacy for older files)",
	}
	base64PEM = format{"the base64 of a PEM file", "decode it with: openssl base64 -d -A -in FILE -out key.pem", "decode it with: openssl base64 -d -A -in FILE -out cert.pem"}
	base64DER = format{"base64 without the BEGIN and END lines of PEM", "add them: the complete file is needed", "add them: the complete file is needed"}
	plist     = format{name: "a property list of an Apple app, such as GoogleService-Info.plist, which has no secret"}
	jsonFile  = format{name: "JSON"}
)

// pemFormats are the formats by the type of a PEM block.
var pemFormats = map[string]format{
	"PRIVATE KEY":           {"a private key in PKCS #8", "", otherCertificate},
	"ENCRYPTED PRIVATE KEY": encrypted,
	"EC PRIVATE KEY":        {"an elliptic curve key in SEC 1", "convert it with: openssl pkcs8 -topk8 -nocrypt -in FILE -out key.p8", otherCertificate},
	"RSA PRIVATE KEY":       {"an RSA key in PKCS #1", "convert it with: openssl pkcs8 -topk8 -nocrypt -in FILE -out key.pem", otherCertificate},
	"DSA PRIVATE KEY":       {"a DSA key", "", otherCertificate},
	"OPENSSH PRIVATE KEY":   {"a key in OpenSSH's format", "convert it in place with: ssh-keygen -p -N '' -m PKCS8 -f FILE", otherCertificate},
	"PUBLIC KEY":            publicKey,
	"RSA PUBLIC KEY":        publicKey,
	"CERTIFICATE":           certFormat,
	"TRUSTED CERTIFICATE":   {"a certificate in OpenSSL's format", otherKey, "convert it with: openssl x509 -in FILE -out cert.pem"},
	"CERTIFICATE REQUEST":   {"a certificate signing request", otherKey, "use the file that Apple issued for the request"},
	"PKCS7":                 {"a PKCS #7 file (.p7b)", otherKey, "convert it with: openssl pkcs7 -print_certs -in FILE -out cert.pem"},
}

// detect returns the format of a file.
func detect(text []byte) format {
	trimmed := bytes.TrimSpace(text)
	if json.Valid(trimmed) && trimmed[0] == '{' { // before PEM, which a service account's file contains
		return jsonFile
	}
	if f, ok := detectPEM(trimmed); ok {
		return f
	}
	switch {
	case len(trimmed) == 0:
		return empty
	case text[0] == 0x30:
		return detectDER(text)
	case bytes.Contains(text[:min(len(text), 64)], []byte{0}):
		return utf16Text
	case bytes.HasPrefix(trimmed, []byte("<?xml")), bytes.HasPrefix(trimmed, []byte("bplist")):
		return plist
	}
	return detectBase64(string(trimmed))
}

// detectPEM returns the format of the first block that is not only parameters. ok is false if there
// is no PEM.
func detectPEM(text []byte) (f format, ok bool) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch f := pemFormats[block.Type]; {
		case block.Headers["DEK-Info"] != "": // encrypted as OpenSSL did before PKCS #8
			return encrypted, true
		case f.name != "":
			return f, true
		case block.Type != "EC PARAMETERS":
			return format{name: "a PEM file of another kind"}, true
		}
	}
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		return format{}, false
	}
	if bytes.Contains(text, []byte(`-\n`)) {
		return escaped, true
	}
	return truncated, true
}

// oidPBES2 and oidPBES1 are the encryption schemes of PKCS #8 (RFC 8018).
var oidPBES2, oidPBES1 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1}

// detectDER returns the format of a binary file.
func detectDER(der []byte) format {
	if isPKCS12(der) {
		return pkcs12
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		return derCert
	}
	if _, err := x509.ParsePKIXPublicKey(der); err == nil {
		return publicKey
	}
	var secret struct {
		Algorithm struct {
			ID         asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Data []byte
	}
	if _, err := asn1.Unmarshal(der, &secret); err == nil {
		if id := secret.Algorithm.ID; id.Equal(oidPBES2) || len(id) > len(oidPBES1) && id[:len(oidPBES1)].Equal(oidPBES1) {
			return derSecret
		}
	}
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return derKey
	}
	if _, err := x509.ParseECPrivateKey(der); err == nil {
		return derKey
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return derKey
	}
	return format{name: "a binary file"}
}

// isPKCS12 reports whether a binary file starts like a PKCS #12 file: a sequence, whose length can be
// indefinite, with the integer 3.
func isPKCS12(der []byte) bool {
	if len(der) < 2 {
		return false
	}
	header := 2
	if der[1] > 0x80 {
		header += int(der[1] & 0x7f)
	}
	return len(der) > header && bytes.HasPrefix(der[header:], []byte{0x02, 0x01, 0x03})
}

// detectBase64 returns the format of base64 that holds a key or a certificate, without PEM's lines.
func detectBase64(text string) format {
	content, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(text))
	if err != nil || len(content) == 0 {
		return format{}
	}
	switch {
	case bytes.HasPrefix(content, []byte("-----BEGIN ")):
		return base64PEM
	case content[0] == 0x30 && detectDER(content).name != "a binary file":
		return base64DER
	}
	return format{}
}
