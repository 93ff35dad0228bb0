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

// serviceLinks are what Kubernetes puts into the environment for a Service whose name is or starts with "sluice". They
// are nobody's override.
var serviceLinks = regexp.MustCompile(`^SLUICE_(.*_)?(SERVICE_(HOST|PORT)(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)$`)

// overrides picks from an environment what starts with our prefix. An empty value overrides nothing.
func overrides(env []string) map[string]string {
	found := map[string]string{}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix) && value != "" && !serviceLinks.MatchString(name) {
			found[name] = value
		}
	}
	return found
}

// variable returns the name of the environment variable that overrides path: apps.shop.keys[0].hash is
// SLUICE_APPS_SHOP_KEYS_0_HASH.
func variable(path string) string {
	words := strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(".[]-_", r) })
	return envPrefix + strings.ToUpper(strings.Join(words, "_"))
}

// lookupVar returns what the environment says about the value at path, and notes that the variable means something.
func (d *decoder) lookupVar(path string) (string, bool) {
	name := variable(path)
	d.knownVars[name] = true
	text, found := d.env[name]
	if found {
		d.positions[path] = position{variable: name}
	}
	return text, found
}

// anyVarSet reports whether the environment says anything about the block at path, whose fields are t's.
func (d *decoder) anyVarSet(path string, t reflect.Type) bool {
	found := false
	for _, f := range fieldsOf(t) {
		at := joinPath(path, f.name)
		if isBlock(f.Type) {
			found = d.anyVarSet(at, f.Type) || found
			continue
		}
		_, set := d.env[variable(at)]
		d.knownVars[variable(at)] = true
		found = found || set
	}
	return found
}

// rejectUnknownVars notes every variable with our prefix that means nothing.
func (d *decoder) rejectUnknownVars() {
	known := slices.Sorted(maps.Keys(d.knownVars))
	for _, name := range slices.Sorted(maps.Keys(d.env)) {
		if !d.knownVars[name] {
			d.failAt(position{variable: name}, "", "no key is overridden by this variable"+didYouMean(name, known))
		}
	}
}
