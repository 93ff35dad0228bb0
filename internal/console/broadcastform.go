// SPDX-License-Identifier: Apache-2.0

package console

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/audience"
)

// inputKind says what an input contains.
type inputKind int

const (
	inputLine inputKind = iota
	inputText           // several lines
	inputNumber
	inputTime // RFC 3339, or a date and time in UTC without seconds
)

// formInput is an input of the form of a broadcast: its name, and the path of the field that it sets.
type formInput struct {
	Name, Path, Label, Placeholder string
	Kind                           inputKind
}

// broadcastInputs set fields of the definition.
var broadcastInputs = []formInput{
	{"name", "name", "Name", "", inputLine},
	{"language", "language", "Language of the texts", "en", inputLine},
	{"platform", "audience.platform", "Platform of lines without one", "", inputLine},
	{"start_at", "schedule.start_at", "Start at (UTC)", "2026-12-24 09:00", inputTime},
	{"expires_at", "schedule.expires_at", "Expires at (UTC)", "+24h", inputTime},
	{"local_time", "schedule.local_time", "Local time of devices", "09:00", inputLine},
	{"time_zone", "schedule.time_zone", "Time zone of devices without one", "Europe/Berlin", inputLine},
	{"quiet_from", "schedule.quiet_hours.from", "Quiet from", "22:00", inputLine},
	{"quiet_to", "schedule.quiet_hours.to", "Quiet to", "07:00", inputLine},
	{"per_minute", "rate.per_minute", "Notifications a minute", "", inputNumber},
	{"ramp_up", "rate.ramp_up", "Ramp-up", "10m", inputLine},
	{"canary", "canary.share", "Canary share", "1%", inputLine},
	{"canary_wait", "canary.wait", "Wait after it", "5m", inputLine},
	{"refused", "pause_if.refused", "Pause if refused exceeds", "5%", inputLine},
	{"unregistered", "pause_if.unregistered", "Pause if unregistered exceeds", "20%", inputLine},
	{"recall_title", "recall.message.title", "Title", "", inputLine},
	{"recall_body", "recall.message.body", "Body", "", inputText},
	{"recall_rate", "recall.rate.per_minute", "Notifications a minute", "", inputNumber},
}

// messageInputs set fields of a message.
var messageInputs = []formInput{
	{"title", "title", "Title", "", inputLine},
	{"body", "body", "Body", "", inputText},
	{"image", "image", "Image (https URL)", "", inputLine},
	{"ttl", "ttl", "Time to live", "4h", inputLine},
	{"apns_title", "platforms.apns.title", "iOS title", "", inputLine},
	{"apns_body", "platforms.apns.body", "iOS body", "", inputLine},
	{"fcm_title", "platforms.fcm.title", "Android title", "", inputLine},
	{"fcm_body", "platforms.fcm.body", "Android body", "", inputLine},
	{"webpush_title", "platforms.webpush.title", "Web title", "", inputLine},
	{"webpush_body", "platforms.webpush.body", "Web body", "", inputLine},
}

// languageInputs are those of a text in a language, whose index is part of their names.
func languageInputs(i int, tag string) []formInput {
	return []formInput{
		{fmt.Sprintf("l%d_title", i), "languages." + tag + ".title", "Title", "", inputLine},
		{fmt.Sprintf("l%d_body", i), "languages." + tag + ".body", "Body", "", inputText},
	}
}

// Limits of a definition.
const maxVariants, maxLanguages = 16, 64

// broadcastForm has the values of the inputs by name. Those of the message of a variant but the first one
// have a prefix; recallPrefix is that of the texts of the recall message.
type broadcastForm struct {
	values    map[string]string
	Languages []string // of the texts besides the language of the broadcast
	Named     int      // variants; 0 if there is one message without a name
	Problem   *fieldProblem
	Focus     string // name of the input to focus
}

const recallPrefix = "recall_"

func variantPrefix(i int) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf("v%d_", i)
}

func parseBroadcastForm(r *http.Request) *broadcastForm {
	f := &broadcastForm{values: map[string]string{}}
	_ = r.ParseForm() // an incomplete form has fewer values
	for name := range r.PostForm {
		f.values[name] = strings.TrimSpace(strings.ReplaceAll(r.PostForm.Get(name), "\r\n", "\n"))
	}
	for f.Named < maxVariants && r.PostForm.Has(variantPrefix(f.Named)+"variant") {
		f.Named++
	}
	for len(f.Languages) < maxLanguages && f.values[fmt.Sprintf("lang%d", len(f.Languages))] != "" {
		f.Languages = append(f.Languages, f.values[fmt.Sprintf("lang%d", len(f.Languages))])
	}
	return f
}

// exactNumbers decodes numbers as their text, which a float64 cannot always represent.
var exactNumbers = json.WithUnmarshalers(json.UnmarshalFromFunc(func(in *jsontext.Decoder, v *any) error {
	if in.PeekKind() == '0' {
		*v = jsontext.Value(nil)
	}
	return errors.ErrUnsupported
}))

// object returns the JSON object in an input.
func (f *broadcastForm) object(name string) (map[string]any, *fieldProblem) {
	object := map[string]any{}
	if f.values[name] != "" && (json.Unmarshal([]byte(f.values[name]), &object, exactNumbers) != nil || object == nil) {
		return nil, &fieldProblem{name, `must be a JSON object, such as {"data": {"page": "sale"}}`}
	}
	return object, nil
}

// set sets the field of an input that is not empty.
func (f *broadcastForm) set(object map[string]any, prefix string, in formInput) *fieldProblem {
	text := f.values[prefix+in.Name]
	if text == "" {
		return nil
	}
	var value any = text
	switch in.Kind {
	case inputNumber:
		number, err := strconv.Atoi(text)
		if err != nil {
			return &fieldProblem{prefix + in.Name, "must be a whole number"}
		}
		value = number
	case inputTime:
		if at, err := time.Parse("2006-01-02 15:04", text); err == nil {
			value = at.Format(time.RFC3339)
		}
	}
	set(object, in.Path, value)
	return nil
}

// definition returns the definition in JSON.
func (f *broadcastForm) definition() ([]byte, *fieldProblem) {
	if f.values["new_language"] != "" {
		return nil, &fieldProblem{"new_language", "has a language that is not added: press the button after it, or clear it"}
	}
	all, problem := f.object("rest")
	for _, in := range broadcastInputs {
		if problem == nil {
			problem = f.set(all, "", in)
		}
	}
	if problem != nil {
		return nil, problem
	}
	if kind := f.values["kind"]; kind != "" && kind != "upload" {
		set(all, "audience."+kind, f.values["target"])
	}
	for i, tag := range f.Languages {
		for _, in := range languageInputs(i, tag) {
			in.Path = "recall.message." + in.Path
			_ = f.set(all, recallPrefix, in) // a text
		}
	}
	variants := []any{}
	for i := range max(f.Named, 1) {
		message, problem := f.message(variantPrefix(i))
		if problem != nil {
			return nil, problem
		}
		variant := map[string]any{"message": message}
		for _, in := range []formInput{{"variant", "name", "", "", inputLine}, {"weight", "weight", "", "", inputNumber}} {
			if problem := f.set(variant, variantPrefix(i), in); problem != nil {
				return nil, problem
			}
		}
		variants = append(variants, variant)
	}
	if f.Named > 0 {
		all["variants"] = variants
	} else {
		all["message"] = variants[0].(map[string]any)["message"]
	}
	text, err := json.Marshal(all, json.Deterministic(true))
	if err != nil {
		return nil, &fieldProblem{"rest", "must be valid JSON"}
	}
	return text, nil
}

// message returns the message of a variant.
func (f *broadcastForm) message(prefix string) (map[string]any, *fieldProblem) {
	message, problem := f.object(prefix + "more")
	if problem != nil {
		return nil, problem
	}
	inputs := messageInputs
	for i, tag := range f.Languages {
		at(at(message, "languages"), tag) // all variants must have the same languages
		inputs = slices.Concat(inputs, languageInputs(i, tag))
	}
	for _, in := range inputs {
		if problem := f.set(message, prefix, in); problem != nil {
			return nil, problem
		}
	}
	return message, nil
}

// at returns the object with this name, which it adds if there is none.
func at(object map[string]any, name string) map[string]any {
	inner, ok := object[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		object[name] = inner
	}
	return inner
}

// set sets the value of a path such as message.title.
func set(object map[string]any, path string, value any) {
	first, rest, nested := strings.Cut(path, ".")
	if !nested {
		object[first] = value
		return
	}
	set(at(object, first), rest, value)
}

// formOf returns the form with the definition of a broadcast. What has no input is in rest and, of a
// message, in more: nothing is lost when the form is saved.
func formOf(text []byte) (*broadcastForm, error) {
	var all map[string]any
	if err := json.Unmarshal(text, &all, exactNumbers); err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(name string, _ any) bool {
		return !slices.Contains([]string{"name", "language", "message", "variants", "audience", "schedule", "rate", "canary", "pause_if", "recall"}, name)
	})
	f := &broadcastForm{values: map[string]string{}}
	messages := []any{all["message"]}
	if variants, ok := all["variants"].([]any); ok {
		messages, f.Named = nil, len(variants)
		for i, v := range variants {
			variant, _ := v.(map[string]any)
			f.values[variantPrefix(i)+"variant"] = take(variant, "name", inputLine)
			f.values[variantPrefix(i)+"weight"] = take(variant, "weight", inputNumber)
			messages = append(messages, variant["message"])
		}
	}
	delete(all, "message")
	delete(all, "variants")
	for i, m := range messages {
		message, _ := m.(map[string]any)
		if languages, ok := message["languages"].(map[string]any); ok && i == 0 { // all variants have the same ones
			f.Languages = slices.Sorted(maps.Keys(languages))
		}
		f.takeMessage(variantPrefix(i), message)
	}
	for i, tag := range f.Languages {
		for _, in := range languageInputs(i, tag) {
			f.values[recallPrefix+in.Name] = take(all, "recall.message."+in.Path, in.Kind)
		}
	}
	for _, in := range broadcastInputs {
		f.values[in.Name] = take(all, in.Path, in.Kind)
	}
	for _, kind := range audienceKinds[1:] {
		if target := take(all, "audience."+kind.Name, inputLine); target != "" {
			f.values["kind"], f.values["target"] = kind.Name, target
		}
	}
	f.values["rest"] = objectText(all)
	return f, nil
}

// takeMessage moves the fields of a message to the inputs with a prefix.
func (f *broadcastForm) takeMessage(prefix string, message map[string]any) {
	inputs := messageInputs
	for i, tag := range f.Languages {
		inputs = slices.Concat(inputs, languageInputs(i, tag))
	}
	for _, in := range inputs {
		f.values[prefix+in.Name] = take(message, in.Path, in.Kind)
	}
	if languages, ok := message["languages"].(map[string]any); ok {
		maps.DeleteFunc(languages, func(_ string, v any) bool { texts, ok := v.(map[string]any); return ok && len(texts) == 0 })
		if len(languages) == 0 {
			delete(message, "languages")
		}
	}
	f.values[prefix+"more"] = objectText(message)
}

// objectText returns an object as JSON, and nothing if it is empty.
func objectText(object map[string]any) string {
	if len(object) == 0 {
		return ""
	}
	text, _ := json.Marshal(object, json.Deterministic(true), jsontext.WithIndent("  ")) // it has been parsed
	return string(text)
}

// take removes the value of a path, with the objects that are empty afterwards. A value that an input would
// change stays, and take returns "".
func take(object map[string]any, path string, kind inputKind) (text string) {
	first, rest, nested := strings.Cut(path, ".")
	if nested {
		inner, ok := object[first].(map[string]any)
		if !ok {
			return ""
		}
		if text = take(inner, rest, kind); text != "" && len(inner) == 0 {
			delete(object, first)
		}
		return text
	}
	switch v := object[first].(type) {
	case string:
		if kind != inputNumber && v == strings.TrimSpace(v) && (kind == inputText || !strings.ContainsAny(v, "\r\n")) && !strings.Contains(v, "\r") {
			text = v
		}
	case jsontext.Value:
		if kind == inputNumber {
			text = string(v)
		}
	}
	if text != "" {
		delete(object, first)
	}
	return text
}

// change adds or removes a variant or a language.
func (f *broadcastForm) change(action string) {
	action, number, _ := strings.Cut(action, " ")
	i, err := strconv.Atoi(number)
	switch {
	case action == "add-variant" && f.Named < maxVariants:
		f.addVariant()
	case action == "remove-variant" && err == nil && i >= 0 && i < f.Named:
		for ; i < f.Named-1; i++ {
			f.copyVariant(variantPrefix(i), variantPrefix(i+1))
		}
		if f.Named--; f.Named == 1 {
			f.Named = 0
			delete(f.values, "variant")
			delete(f.values, "weight")
		}
		f.Focus = "add-variant"
	case action == "add-language" && len(f.Languages) < maxLanguages:
		f.addLanguage()
	case action == "remove-language" && err == nil && i >= 0 && i < len(f.Languages):
		f.removeLanguage(i)
		f.Focus = "new_language"
	}
}

// addVariant adds a variant with the texts of the last one.
func (f *broadcastForm) addVariant() {
	if f.Named == 0 {
		f.values["variant"], f.values["weight"], f.Named = "A", "1", 1
	}
	prefix := variantPrefix(f.Named)
	f.copyVariant(prefix, variantPrefix(f.Named-1))
	used := []string{}
	for i := range f.Named {
		used = append(used, f.values[variantPrefix(i)+"variant"])
	}
	for name := 'A'; ; name++ {
		if f.values[prefix+"variant"] = string(name); !slices.Contains(used, string(name)) {
			break
		}
	}
	f.Focus = prefix + "title"
	f.Named++
}

// copyVariant copies the inputs of a variant.
func (f *broadcastForm) copyVariant(to, from string) {
	names := []string{"variant", "weight", "more"}
	for _, in := range messageInputs {
		names = append(names, in.Name)
	}
	for i := range f.Languages {
		for _, in := range languageInputs(i, "") {
			names = append(names, in.Name)
		}
	}
	for _, name := range names {
		f.values[to+name] = f.values[from+name]
	}
}

func (f *broadcastForm) addLanguage() {
	tag := f.values["new_language"]
	_, err := audience.Compile(&audience.Definition{Message: jsontext.Value(fmt.Sprintf(`{"title":"x","languages":{%q:{}}}`, tag))})
	switch {
	case slices.ContainsFunc(f.Languages, func(t string) bool { return strings.EqualFold(t, tag) }):
		f.Problem = &fieldProblem{"new_language", "must be a language that the message does not have"}
	case tag == "" || err != nil || strings.ContainsRune(tag, '.'):
		f.Problem = &fieldProblem{"new_language", "must be a BCP 47 tag of a language, such as de or pt-BR"}
	default:
		f.Focus = fmt.Sprintf("l%d_title", len(f.Languages))
		f.Languages = append(f.Languages, tag)
		delete(f.values, "new_language")
		return
	}
	f.Focus = "new_language"
}

func (f *broadcastForm) removeLanguage(i int) {
	prefixes := []string{recallPrefix}
	for v := range max(f.Named, 1) {
		prefixes = append(prefixes, variantPrefix(v))
	}
	for j := i; j < len(f.Languages); j++ {
		next := languageInputs(j+1, "")
		for k, in := range languageInputs(j, "") {
			for _, prefix := range prefixes {
				f.values[prefix+in.Name] = f.values[prefix+next[k].Name]
			}
		}
	}
	f.Languages = slices.Delete(f.Languages, i, i+1)
}

// refused sets the problem to that of the API.
func (f *broadcastForm) refused(response *apiResponse) {
	p := response.problem()
	if response.Status == http.StatusPreconditionFailed || p.Field == "" {
		f.Problem = &fieldProblem{"", p.text()}
		return
	}
	f.Problem = f.problemAt(p.Field, strings.TrimPrefix(p.Detail, p.Field+": "))
}

// problemAt returns the problem with a field of the definition.
func (f *broadcastForm) problemAt(field, text string) *fieldProblem {
	prefix, path := "", field
	if after, ok := strings.CutPrefix(field, "message."); ok {
		path = after
	} else if index, after, ok := strings.Cut(strings.TrimPrefix(field, "variants["), "]."); ok {
		i, _ := strconv.Atoi(index)
		prefix, path = variantPrefix(i), strings.TrimPrefix(after, "message.")
		if name, ok := map[string]string{"name": "variant", "weight": "weight"}[path]; ok {
			return &fieldProblem{prefix + name, text}
		}
	} else {
		for _, in := range broadcastInputs {
			if in.Path == field {
				return &fieldProblem{in.Name, text}
			}
		}
		if slices.Contains([]string{"audience.topic", "audience.condition", "audience.channel"}, field) {
			return &fieldProblem{"target", text}
		}
		return &fieldProblem{"", field + " " + text}
	}
	inputs := messageInputs
	for i, tag := range f.Languages {
		inputs = slices.Concat(inputs, languageInputs(i, tag))
	}
	for _, in := range inputs {
		if in.Path == path {
			return &fieldProblem{prefix + in.Name, text}
		}
	}
	return &fieldProblem{"", field + " " + text}
}

// inputView is an input with its value.
type inputView struct {
	formInput
	Value   string
	Invalid bool
	Focus   bool
}

// view returns an input with a prefix.
func (f *broadcastForm) view(prefix string, in formInput) inputView {
	in.Name = prefix + in.Name
	invalid := f.Problem != nil && f.Problem.Field == in.Name
	return inputView{in, f.values[in.Name], invalid, in.Name == f.Focus || invalid && f.Focus == ""}
}

// IsText reports whether the value has several lines.
func (v inputView) IsText() bool { return v.Kind == inputText }

// Value returns the value of an input.
func (f *broadcastForm) Value(name string) string { return f.values[name] }

// Input returns the view of an input.
func (f *broadcastForm) Input(name string) (inputView, error) { return f.viewOf("", name) }

// viewOf returns the view of the input with a name. An error fails the template.
func (f *broadcastForm) viewOf(prefix, name string) (inputView, error) {
	for _, in := range slices.Concat(broadcastInputs, messageInputs, otherInputs) {
		if in.Name == name {
			return f.view(prefix, in), nil
		}
	}
	return inputView{}, fmt.Errorf("console: no input %s", name)
}

// otherInputs set no field by themselves.
var otherInputs = []formInput{
	{"target", "", "Topic, condition or channel", "", inputLine},
	{"variant", "", "Name of the variant", "", inputLine},
	{"weight", "", "Weight", "1", inputNumber},
	{"new_language", "", "Another language", "de", inputLine},
	{"more", "", "Other fields of the message in JSON", `{"data": {"page": "sale"}, "platforms": {"apns": {"sound": "default"}}}`, inputText},
	{"rest", "", "Other fields of the broadcast in JSON", `{"pause_if": {"after": 500}}`, inputText},
}

// ErrorText is the problem with the label of its input.
func (f *broadcastForm) ErrorText() string {
	if f.Problem == nil {
		return ""
	}
	name := f.Problem.Field
	for i := f.Named - 1; i > 0; i-- {
		if after, ok := strings.CutPrefix(name, variantPrefix(i)); ok {
			return f.labelled(after, " of variant "+f.values[variantPrefix(i)+"variant"])
		}
	}
	return f.labelled(name, "")
}

func (f *broadcastForm) labelled(name, of string) string {
	for i, tag := range f.Languages {
		for _, in := range languageInputs(i, tag) {
			if in.Name == name {
				return in.Label + " in " + tag + of + " " + f.Problem.Text
			}
		}
	}
	if name == "" {
		return f.Problem.Text
	}
	in, err := f.viewOf("", name)
	if err != nil {
		in.Label = name
	}
	return in.Label + of + " " + f.Problem.Text
}

// IsOpen reports whether one of the inputs has a value or the problem, so that their group is shown.
func (f *broadcastForm) IsOpen(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return f.values[name] != "" || f.Problem != nil && f.Problem.Field == name
	})
}

// messagePart is the part of the form for one message.
type messagePart struct {
	Form    *broadcastForm
	Prefix  string
	Index   int
	Variant bool
}

// Messages returns the parts for the messages.
func (f *broadcastForm) Messages() (parts []messagePart) {
	for i := range max(f.Named, 1) {
		parts = append(parts, messagePart{f, variantPrefix(i), i, f.Named > 0})
	}
	return parts
}

// Input returns the view of an input of the message.
func (p messagePart) Input(name string) (inputView, error) { return p.Form.viewOf(p.Prefix, name) }

// HasMore reports whether one of the inputs that are not always shown has a value.
func (p messagePart) HasMore() bool {
	return p.Form.IsOpen(p.Prefix+"apns_title", p.Prefix+"apns_body", p.Prefix+"fcm_title", p.Prefix+"fcm_body", p.Prefix+"webpush_title", p.Prefix+"webpush_body", p.Prefix+"image", p.Prefix+"ttl", p.Prefix+"more")
}

// languageView has the inputs of the texts in a language.
type languageView struct {
	Index  int
	Tag    string
	Inputs []inputView
}

func (f *broadcastForm) languageViews(prefix string) (all []languageView) {
	for i, tag := range f.Languages {
		v := languageView{i, tag, nil}
		for _, in := range languageInputs(i, tag) {
			v.Inputs = append(v.Inputs, f.view(prefix, in))
		}
		all = append(all, v)
	}
	return all
}

// Languages returns the texts of the message in other languages.
func (p messagePart) Languages() []languageView { return p.Form.languageViews(p.Prefix) }

// RecallLanguages returns the texts of the recall message in other languages.
func (f *broadcastForm) RecallLanguages() []languageView { return f.languageViews(recallPrefix) }

// RecallIsOpen reports whether there is a recall message.
func (f *broadcastForm) RecallIsOpen() bool {
	return f.IsOpen("recall_title", "recall_body", "recall_rate")
}

// audienceKinds are the kinds of audiences of the form.
var audienceKinds = []struct{ Name, Label string }{
	{"upload", "file"}, {"topic", "FCM topic"}, {"condition", "FCM condition"}, {"channel", "APNs channel"},
}
