// SPDX-License-Identifier: Apache-2.0

package wire

// fieldCache holds the encoding of the last request's fields that belong into the HPACK table, so
// that requests that differ only in the others need no search in the table. That encoding can be
// used again only if each field is one byte, an index into the table: then encoding it has not
// changed the table. It is valid until the encoder runs again.
type fieldCache struct {
	method string
	fields []Field
	block  []byte // one byte each for the pseudo-header fields except :path, and for fields; or empty
}

// pseudoFields is the number of pseudo-header fields in the block of a fieldCache.
const pseudoFields = 3

// matches reports whether block is the encoding for r.
func (f *fieldCache) matches(r *Request) bool {
	if len(f.block) == 0 || r.Method != f.method {
		return false
	}
	rest := f.fields
	for i := range r.Header {
		field := &r.Header[i]
		if field.NeverIndexed {
			continue
		}
		if len(rest) == 0 || rest[0].Name != field.Name || rest[0].Value != field.Value {
			return false
		}
		rest = rest[1:]
	}
	return len(rest) == 0
}

// encodeIndexed returns the encoding of the fields of r that belong into the HPACK table: of the
// pseudo-header fields except :path, and of the others. The slices are valid until the next call.
func (c *Conn) encodeIndexed(r *Request) (pseudo, rest []byte) {
	f := &c.fieldCache
	if f.matches(r) {
		return f.block[:pseudoFields], f.block[pseudoFields:]
	}
	f.method, f.fields, f.block = r.Method, f.fields[:0], f.block[:0]
	c.indexedBuf = c.indexedBuf[:0]
	c.encodeField(":method", r.Method)
	c.encodeField(":scheme", "https")
	c.encodeField(":authority", c.cfg.Authority)
	n := len(c.indexedBuf)
	for i := range r.Header {
		if field := r.Header[i]; !field.NeverIndexed {
			f.fields = append(f.fields, field)
			c.encodeField(field.Name, field.Value)
		}
	}
	if len(c.indexedBuf) == pseudoFields+len(f.fields) {
		f.block = append(f.block, c.indexedBuf...)
	}
	return c.indexedBuf[:n], c.indexedBuf[n:]
}
