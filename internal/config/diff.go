// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Change is one key whose value differs between two configurations.
type Change struct {
	// Key is the key's path, such as apps.shop.fcm.pool.size.
	Key string
	// From and To are the values as the file contains them, empty if there is none, and "(secret)"
	// for a secret.
	From, To string
	// Restart is set if the key cannot change while the gateway runs.
	Restart bool
}

// String returns the change in one line: "pool.size: 8 → 4".
func (c Change) String() string {
	return fmt.Sprintf("%s: %s → %s", c.Key, cmp.Or(c.From, "(none)"), cmp.Or(c.To, "(none)"))
}

// Diff returns the differences between two configurations, sorted by key. A key that several blocks
// inherit is listed for each of these blocks.
func Diff(from, to *Config) []Change {
	var changes []Change
	diff(&changes, field{}, "", reflect.ValueOf(from).Elem(), reflect.ValueOf(to).Elem())
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return changes
}

// diff compares two values of key, which is a block or an item of a list.
func diff(changes *[]Change, key field, path string, from, to reflect.Value) {
	if !isBlock(from.Type()) {
		diffValue(changes, key, path, from, to)
		return
	}
	for i, f := range fieldsOf(from.Type()) {
		diffValue(changes, f.in(key), joinPath(path, f.name), from.Field(i), to.Field(i))
	}
}

// diffValue compares two values of one key, which may contain blocks.
func diffValue(changes *[]Change, key field, path string, from, to reflect.Value) {
	switch kind := from.Kind(); {
	case reflect.DeepEqual(from.Interface(), to.Interface()):
	case kind == reflect.Struct && isBlock(from.Type()):
		diff(changes, key, path, from, to)
	case kind == reflect.Pointer && !from.IsNil() && !to.IsNil():
		diff(changes, key, path, from.Elem(), to.Elem())
	case kind == reflect.Map:
		diffMaps(changes, key, path, from, to)
	case kind == reflect.Slice && isBlock(from.Type().Elem()) && from.Len() == to.Len():
		for i := range from.Len() {
			diff(changes, key, fmt.Sprintf("%s[%d]", path, i), from.Index(i), to.Index(i))
		}
	default:
		*changes = append(*changes, Change{path, formatValue(from, key.secret), formatValue(to, key.secret), key.restart})
	}
}

func diffMaps(changes *[]Change, key field, path string, from, to reflect.Value) {
	names := map[string]bool{}
	for _, m := range [...]reflect.Value{from, to} {
		for _, name := range m.MapKeys() {
			names[name.String()] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, is := from.MapIndex(reflect.ValueOf(name)), to.MapIndex(reflect.ValueOf(name))
		switch at := joinPath(path, name); {
		case !was.IsValid():
			*changes = append(*changes, Change{at, "", "(new)", key.restart})
		case !is.IsValid():
			*changes = append(*changes, Change{at, "(set)", "", key.restart})
		default:
			diffValue(changes, key, at, was, is)
		}
	}
}

// formatValue returns a value in readable form.
func formatValue(v reflect.Value, secret bool) string {
	switch {
	case v.IsZero():
		return ""
	case secret:
		return "(secret)"
	case v.Kind() == reflect.Pointer:
		return "(set)"
	case v.Kind() == reflect.Slice && isBlock(v.Type().Elem()):
		return strconv.Itoa(v.Len()) + " items"
	default:
		return fmt.Sprint(v.Interface())
	}
}

// String returns the rate as the file contains it. The zero Rate is empty.
func (r Rate) String() string {
	for unit, per := range rateUnits {
		if r.Per == per {
			return strconv.Itoa(r.Count) + "/" + unit
		}
	}
	return ""
}

// String returns the percentage as the file contains it.
func (p Percent) String() string { return strconv.FormatFloat(float64(p)*100, 'f', -1, 64) + "%" }

// String returns the size as the file contains it, in the largest unit of which it is a whole
// number.
func (b Bytes) String() string {
	for _, unit := range byteUnits {
		if int64(b)%unit.size == 0 {
			return strconv.FormatInt(int64(b)/unit.size, 10) + unit.name
		}
	}
	return ""
}
