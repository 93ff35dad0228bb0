// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

const envPrefix = "SLUICE_"

// reserved are variables with our prefix that do not override a key. SLUICE_KEY holds the API key
// for commands and programs that call a gateway; a shell that has exported it must still be able to
// run one.
var reserved = map[string]bool{envPrefix + "KEY": true}

// serviceLinks matches the variables that Kubernetes sets for a Service whose name is or starts
// with "sluice". They do not override a key.
var serviceLinks = regexp.MustCompile(`^SLUICE_(.*_)?(SERVICE_(HOST|PORT)(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)$`)

// overrides returns the variables of an environment that start with our prefix. Variables with an
// empty value, reserved variables and Kubernetes service links are left out.
func overrides(env []string) map[string]string {
	found := map[string]string{}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix) && value != "" && !reserved[name] && !serviceLinks.MatchString(name) {
			found[name] = value
		}
	}
	return found
}

// variable returns the name of the environment variable that overrides the key at path. For
// apps.shop.keys[0].hash it is SLUICE_APPS_SHOP_KEYS_0_HASH.
func variable(path string) string {
	words := strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(".[]-_", r) })
	return envPrefix + strings.ToUpper(strings.Join(words, "_"))
}

// hasOverride reports whether a variable may override a key of the block at path.
func (d *decoder) hasOverride(path string) bool {
	if len(d.env) == 0 || path == "" || d.describe {
		return len(d.env) > 0
	}
	prefix := variable(path) + "_"
	for name := range d.env {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// lookupVar returns the value that the environment sets for the key at path, and records its
// variable as known.
func (d *decoder) lookupVar(path string) (string, bool) {
	if len(d.env) == 0 && !d.describe {
		return "", false
	}
	name := variable(path)
	text, found := d.env[name]
	if found {
		d.setPosition(path, position{variable: name})
	}
	if found || d.describe {
		d.knownVars[name] = true
	}
	return text, found
}

// anyVarSet reports whether the environment sets any key of the block at path, whose type is t. It
// records the variables of the block as known.
func (d *decoder) anyVarSet(path string, t reflect.Type) bool {
	if len(d.env) == 0 && !d.describe {
		return false
	}
	found := false
	fields := fieldsOf(t)
	for i := range fields {
		f := &fields[i]
		d.retire(path, f)
		at := joinPath(path, f.name)
		if isBlock(f.Type) {
			found = d.anyVarSet(at, f.Type) || found
			continue
		}
		_, set := d.lookupVar(at)
		found = found || set
	}
	return found
}

// retire records the variable of a renamed key of the block at path, and the variable that replaces
// it.
func (d *decoder) retire(path string, f *field) {
	if f.was != "" && d.describe {
		d.retired[variable(joinPath(path, f.was))] = variable(joinPath(path, f.name))
	}
}

// rejectUnknownVars reports every variable with our prefix that overrides no key.
func (d *decoder) rejectUnknownVars() {
	known := slices.Sorted(maps.Keys(d.knownVars))
	for _, name := range slices.Sorted(maps.Keys(d.env)) {
		if d.knownVars[name] {
			continue
		}
		hint := didYouMean(name, known)
		if replacement, ok := d.retired[name]; ok {
			hint = suggest(replacement)
		}
		d.failAt(position{variable: name}, "", "no key is overridden by this variable"+hint)
	}
}
