// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// allowed is a parsed allowed tag: words, a range, or a pattern with its meaning; at most one of
// them.
type allowed struct {
	words   []string
	lo, hi  string
	pattern *regexp.Regexp
	meaning string
}

func parseAllowed(tag string) allowed {
	if rest, found := strings.CutPrefix(tag, "/"); found {
		end := strings.LastIndex(rest, "$/") + 1
		return allowed{pattern: regexp.MustCompile(rest[:end]), meaning: rest[end+1:]}
	}
	if lo, hi, found := strings.Cut(tag, ".."); found {
		return allowed{lo: lo, hi: hi}
	}
	if tag != "" {
		return allowed{words: strings.Split(tag, "|")}
	}
	return allowed{}
}

// describe describes the allowed values of type t: `one of "json", "text"`, "a whole number, from 1
// to 64".
func (a allowed) describe(t reflect.Type) string {
	switch {
	case a.words != nil && t.Kind() == reflect.String:
		return `one of "` + strings.Join(a.words, `", "`) + `"`
	case a.words != nil:
		return "one of " + strings.Join(a.words, ", ")
	case a.pattern != nil:
		return a.meaning
	case a.lo != "":
		return fmt.Sprintf("%s, from %s to %s", kindOf(t).description, a.lo, a.hi)
	case kindOf(t).example != "":
		return fmt.Sprintf("%s, such as %q", kindOf(t).description, kindOf(t).example)
	default:
		return kindOf(t).description
	}
}

// permits reports whether v, which was parsed from text, is allowed.
func (a allowed) permits(v reflect.Value, text string) bool {
	switch {
	case a.words != nil:
		return slices.Contains(a.words, text)
	case a.pattern != nil:
		return a.pattern.MatchString(text)
	case a.lo != "":
		return !less(v, mustParse(v.Type(), a.lo)) && !less(mustParse(v.Type(), a.hi), v)
	default:
		return true
	}
}

// less compares two numbers of a kind that can have a range.
func less(a, b reflect.Value) bool {
	if a.CanFloat() {
		return a.Float() < b.Float()
	}
	return a.Int() < b.Int()
}

// mustParse parses a value in a struct tag of this package. It panics if the value is invalid.
func mustParse(t reflect.Type, text string) reflect.Value {
	v := reflect.New(t).Elem()
	if err := parseValue(v, text); err != nil {
		panic(fmt.Sprintf("config: tag %q is not a %v", text, t))
	}
	return v
}

// parseValue sets v, a single value of any kind that the file can contain, from its text.
func parseValue(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Interface().(type) {
	case time.Duration:
		n, err := time.ParseDuration(text)
		v.SetInt(int64(n))
		return err
	case int:
		n, err := strconv.Atoi(text)
		v.SetInt(int64(n))
		return err
	case bool:
		v.SetBool(text == "true")
		if text != "true" && text != "false" {
			return errUnparsable
		}
		return nil
	default:
		v.SetString(text)
		return nil
	}
}

// kind describes a type of value in errors, in the schema and in the reference.
type kind struct {
	name        string // in the reference
	description string
	unit        string // the units of a value with a unit
	json        string // JSON Schema's type
	pattern     string
	example     string
}

// kindOf returns the kind of a single value.
func kindOf(t reflect.Type) kind {
	switch reflect.Zero(t).Interface().(type) {
	case time.Duration:
		return kind{"duration", "a duration with its unit", "`ms`, `s`, `m`, `h`", "string", `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`, "5s"}
	case Bytes:
		return kind{"size", "a size with its unit", "`KiB`, `MiB`, `GiB`, `kB`, `MB`, `GB`, `B`", "string", `^[0-9]+ ?(B|kB|KB|MB|GB|KiB|MiB|GiB)$`, "1MiB"}
	case Percent:
		return kind{"percentage", "a percentage", "`%`", "string", `^[0-9]+(\.[0-9]+)? ?%$`, "10%"}
	case Rate:
		return kind{"rate", "none, or a rate above zero, per s, min, h or d", "notifications per `s`, `min`, `h` or `d`", "string", `^(none|[0-9]+ ?/ ?(s|min|h|d))$`, "600000/min"}
	case Time:
		return kind{"time", "a date, or a date and time with time zone", "", "string", `^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2}))?$`, "2030-01-31T12:00:00Z"}
	case Address:
		return kind{"address", "an address to listen on: host:port, unix:/path (up to 100 bytes) or systemd:NAME", "", "string", `^(.*:[0-9]+|unix:/.+|systemd:[A-Za-z0-9._-]+)$`, "127.0.0.1:8080"}
	case Endpoint:
		return kind{"endpoint", "an address as ip:port", "", "string", `^.+:[0-9]+$`, "127.0.0.1:2197"}
	case Network:
		return kind{"network", "a network as address/length", "", "string", `^[0-9a-fA-F.:]+/[0-9]+$`, "10.0.0.0/8"}
	case ProxyURL:
		return kind{"URL of a proxy", "none, or a URL http://host:port, https://host:port or socks5://host:port, without user and password (put them into credentials_file)", "", "string",
			`^(none|(https?|socks5)://[^/?#@]+:[0-9]+/?)$`, "http://proxy.internal:3128"}
	case NoProxy:
		return kind{"host or network", "a host name, an IP address or a network as address/length", "", "string", `^[0-9A-Za-z.:_*-]+(/[0-9]+)?$`, "internal.example.com"}
	case Base:
		return kind{"URL", "an https URL with nothing after the port", "", "string", `^https://[^/?#@]+/?$`, "https://localhost:2197"}
	case URL:
		return kind{"URL", "an https URL without user or query", "", "string", `^https://[^?#@]+$`, "https://localhost:2197/token"}
	case ConsoleURL:
		return kind{"URL", "an https URL with the path /console/ and nothing after it, or such an http URL of this machine", "", "string",
			`^https?://[^/?#@]+/console/$`, "https://push.example.com/console/"}
	case TracesURL:
		return kind{"URL", "a URL http://host:port or https://host:port, which may have a path for protocol http, without user and query (put credentials into headers_file)", "", "string",
			`^https?://[^?#@]+$`, "http://127.0.0.1:4317"}
	case int:
		return kind{name: "number", description: "a whole number", json: "integer"}
	case bool:
		return kind{name: "boolean", description: "true or false", json: "boolean"}
	case File:
		return kind{name: "file", description: "the path of a file", json: "string"}
	default:
		return kind{name: "string", description: "a string", json: "string"}
	}
}
