// SPDX-License-Identifier: Apache-2.0

package audience_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/audience"
	"github.com/sluice-push/sluice/push"
)

const (
	iosToken = "0a0b0c0d0e0f"
	header   = "platform,token,installation,subscription.endpoint,subscription.keys.p256dh,subscription.keys.auth,language,time_zone,key,variables.name,variables.amount\n"
)

// result is what one call of Next returns.
type result struct {
	Line      uint32
	Recipient audience.Recipient
	Error     *audience.LineError
}

// readAll reads an upload to its end and returns the results, and the error if it is not io.EOF.
func readAll(t testing.TB, r *audience.Reader) (all []result, final error) {
	t.Helper()
	for {
		var res result
		var err error
		if res.Line, err = r.Next(&res.Recipient); err != nil {
			if err == io.EOF {
				return all, nil
			}
			lineError, ok := errors.AsType[*audience.LineError](err)
			if !ok {
				return all, err
			}
			if lineError.Line != res.Line {
				t.Fatalf("the error of line %d is of line %d", res.Line, lineError.Line)
			}
			res = result{Line: res.Line, Error: lineError}
		}
		all = append(all, res)
	}
}

func config(format audience.Format) audience.ReaderConfig {
	return audience.ReaderConfig{Format: format}
}

func TestFormatsHaveOneMeaning(t *testing.T) {
	subscription := &push.Subscription{Endpoint: "https://push.test/1", Keys: push.SubscriptionKeys{P256dh: "p", Auth: "a"}}
	want := []audience.Recipient{
		{Platform: push.APNs, Target: push.Target{Token: iosToken}, Language: "de", TimeZone: "Europe/Berlin", Key: "user 1",
			Variables: variables("name", `Zoë "Z", Ltd`, "amount", "1.50")},
		{Platform: push.FCM, Target: push.Target{Installation: "fid"}, TimeZone: "+05:30"},
		{Platform: push.WebPush, Target: push.Target{Subscription: subscription}},
	}
	ndjson := `{"platform":"apns","token":"` + iosToken + `","language":"de","time_zone":"Europe/Berlin","key":"user 1","variables":{"name":"Zo\u00eb \"Z\", Ltd","amount":1.50,"none":null}}
{"installation":"fid","platform":"fcm","time_zone":"+05:30","language":null,"variables":{}}
{"platform":"webpush","subscription":{"endpoint":"https://push.test/1","keys":{"p256dh":"p","auth":"a"},"browser":"x"}}`
	csv := header + `apns,` + iosToken + `,,,,,de,Europe/Berlin,user 1,"Zoë ""Z"", Ltd",1.50
fcm,,fid,,,,,+05:30,,,
webpush,,,https://push.test/1,p,a,,,,,`
	for format, text := range map[audience.Format]string{audience.NDJSON: ndjson, audience.CSV: csv} {
		for _, variant := range []string{text, text + "\n", "\xef\xbb\xbf" + text, strings.ReplaceAll(text, "\n", "\r\n"), strings.ReplaceAll(text, "\n", "\n\n \n")} {
			all, err := readAll(t, audience.NewReader(strings.NewReader(variant), config(format)))
			if err != nil {
				t.Fatal(err)
			}
			var got []audience.Recipient
			for _, res := range all {
				if res.Error != nil {
					t.Fatalf("%s: %v", format, res.Error)
				}
				if len(res.Recipient.Variables) == 0 {
					res.Recipient.Variables = nil
				}
				got = append(got, res.Recipient)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s:\n%s", format, diff)
			}
		}
	}
}

// malformed are lines that cannot be sent. A %s is a token, which must not be in an error.
var malformed = []struct {
	format audience.Format
	line   string
	want   string // reason, field, detail
}{
	{audience.NDJSON, `{"platform":"apns","token":"%s"`, "InvalidJSON  must be complete JSON; parsing stopped at byte"},
	{audience.NDJSON, `{"platform":"apns","token":"%s"}{}`, "InvalidJSON  must be one valid JSON object with nothing after it"},
	{audience.NDJSON, `"%s"`, "InvalidField  must be an object"},
	{audience.NDJSON, `%s`, "InvalidField  must be an object"},
	{audience.NDJSON, `apns,%s`, "InvalidJSON  must be one valid JSON object with nothing after it"},
	{audience.NDJSON, `["%s"]`, "InvalidField  must be an object"},
	{audience.NDJSON, "{\"platform\":\"apns\",\"token\":\"%s\xff\"}", "InvalidJSON token token: must be valid UTF-8"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","token":"%s"}`, "DuplicateField token token: must be given once"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","lang":"de"}`, "UnknownField lang lang: unknown field; known fields: installation, key, language, platform, subscription, time_zone, token, variables"},
	{audience.NDJSON, `{"platform":"apns","%s":1}`, "UnknownField (…) (…): unknown field; known fields: installation,"},
	{audience.NDJSON, `{"platform":"apns","Token":"%s"}`, "UnknownField Token Token: unknown field"},
	{audience.NDJSON, `{"platform":"fcm","topic":"%s"}`, "UnknownField topic topic: unknown field"},
	{audience.NDJSON, `{"platform":"%s","token":"%s"}`, `InvalidField platform platform: must be one of "apns", "fcm", "webpush"`},
	{audience.NDJSON, `{"token":"%s"}`, `InvalidField platform platform: must be one of "apns", "fcm", "webpush"`},
	{audience.NDJSON, `{"platform":"apns","key":"%s"}`, "InvalidTarget token token: exactly one of token, installation and subscription must be set"},
	{audience.NDJSON, `{"platform":"apns","token":"","installation":""}`, "InvalidTarget token token: exactly one of token, installation and subscription must be set"},
	{audience.NDJSON, `{"platform":"fcm","token":"%s","installation":"%s"}`, "InvalidTarget token token: exactly one of token, installation and subscription must be set"},
	{audience.NDJSON, `{"platform":"webpush","subscription":"%s"}`, "InvalidField subscription subscription: must be an object"},
	{audience.NDJSON, `{"platform":"apns","token":["%s"]}`, "InvalidField token token: must be a string"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","variables":["%s"]}`, "InvalidField variables variables: must be an object"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","variables":{"a":{"b":"%s"}}}`, "InvalidField variables.a variables.a: must be a string, a number, true, false or null"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","variables":{"%s":"1"}}`, "InvalidField variables variables: must have names of 1 to 64 ASCII letters"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","variables":{"a":1,"a":2}}`, "DuplicateField variables.a variables.a: must be given once"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","variables":{"a":"` + strings.Repeat("x", audience.MaxValue+1) + `"}}`, "InvalidField variables.a variables.a: must have at most 1024 bytes"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","variables":{"a":` + strings.Repeat(" ", audience.MaxLine) + `1}}`, "LineTooLong  must have at most 16384 bytes"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","language":"%s"}`, `InvalidField language language: must be a BCP 47 language tag such as "de" or "pt-BR"`},
	{audience.NDJSON, `{"platform":"apns","token":"%s","time_zone":"%s"}`, "InvalidField time_zone time_zone: must be an IANA time zone"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","time_zone":"Europe//Berlin"}`, "InvalidField time_zone time_zone: must be an IANA time zone"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","time_zone":"Local"}`, "InvalidField time_zone time_zone: must be an IANA time zone"},
	{audience.NDJSON, `{"platform":"apns","token":"%s","time_zone":"+15:00"}`, `InvalidField time_zone time_zone: must be an IANA time zone such as "Europe/Berlin", or a UTC offset from "-12:00" to "+14:00"`},
	{audience.NDJSON, `{"platform":"apns","token":"%s","key":"a\u0000b"}`, "InvalidField key key: must have at most 256 bytes and no control characters"},
	{audience.NDJSON, `# %s`, "InvalidJSON  must be one valid JSON object"},
	{audience.CSV, `apns,%s,,,,,,,,,,`, "InvalidCSV  must have 11 fields, as the header has, and has 12"},
	{audience.CSV, `apns,%s`, "InvalidCSV  must have 11 fields, as the header has, and has 2"},
	{audience.CSV, `apns,"%s,,,,,,,,,`, "InvalidCSV  must close each quoted field with \""},
	{audience.CSV, `apns,"%s"x,,,,,,,,,`, "InvalidCSV  must close each quoted field with \""},
	{audience.CSV, `apns,%s"x,,,,,,,,,`, "InvalidCSV  must have \" around a field that contains one"},
	{audience.CSV, "apns,%s\xff,,,,,,,,,", "InvalidCSV  must be valid UTF-8"},
	{audience.CSV, `%s,%s,,,,,,,,,`, `InvalidField platform platform: must be one of "apns", "fcm", "webpush"`},
	{audience.CSV, `apns,%s,%s,,,,,,,,`, "InvalidTarget token token: exactly one of token, installation and subscription must be set"},
	{audience.CSV, `apns,,,,,,,,,%s,`, "InvalidTarget token token: exactly one of token, installation and subscription must be set"},
	{audience.CSV, `apns,%s,,,,,%s,,,,`, "InvalidField language language: must be a BCP 47 language tag"},
	{audience.CSV, `apns,%s,,,,,,Mars/Base,,,`, "InvalidField time_zone time_zone: must be an IANA time zone"},
	{audience.CSV, `apns,%s,,,,,,,,,` + strings.Repeat("x", audience.MaxValue+1), "InvalidField variables.amount variables.amount: must have at most 1024 bytes"},
	{audience.CSV, `apns,%s,,,,,,,,,` + strings.Repeat("x", audience.MaxLine), "LineTooLong  must have at most 16384 bytes"},
}

func TestMalformedLines(t *testing.T) {
	secret := strings.Repeat("0a1b", 16)
	valid := map[audience.Format]string{
		audience.NDJSON: `{"platform":"apns","token":"00"}` + "\n",
		audience.CSV:    "apns,00,,,,,,,,,\n",
	}
	for i, test := range malformed {
		upload, first := valid[test.format]+strings.ReplaceAll(test.line, "%s", secret)+"\n"+valid[test.format], uint32(1)
		if test.format == audience.CSV {
			upload, first = header+upload, 2
		}
		all, err := readAll(t, audience.NewReader(strings.NewReader(upload), config(test.format)))
		if err != nil || len(all) != 3 || all[0].Error != nil || all[2].Error != nil || all[2].Recipient.Target.Token != "00" {
			t.Errorf("malformed[%d]: %v, %v", i, all, err)
			continue
		}
		e := all[1].Error
		if e == nil {
			t.Errorf("malformed[%d] is accepted", i)
			continue
		}
		if got := e.Reason + " " + e.Field + " " + e.Detail; !strings.HasPrefix(got, test.want) || e.Line != first+1 {
			t.Errorf("malformed[%d], line %d:\n got %s\nwant %s", i, e.Line, got, test.want)
		}
		if text, _ := json.Marshal(e); strings.Contains(e.Error()+string(text), secret) {
			t.Errorf("malformed[%d]: the error contains the token", i)
		}
	}
}

func TestInvalidHeaderEndsUpload(t *testing.T) {
	secret := strings.Repeat("0a1b", 16)
	for text, want := range map[string]string{
		"platform,tokn\n":               "UnknownField tokn tokn: unknown column; known columns, separated by commas: platform, token, installation, subscription.endpoint,",
		"\n\nplatform;token\n":          "UnknownField (…) (…): unknown column; known columns, separated by commas",
		"apns," + secret + "\n":         "UnknownField apns apns: unknown column",
		secret + "\n":                   "UnknownField (…) (…): unknown column",
		"platform,token,token\n":        "DuplicateField token token: must be one column",
		"token,variables.1st\n":         "InvalidField variables variables: must have names of",
		"token,\"platform\n":            "InvalidCSV  must close each quoted field",
		"token,\xff\n":                  "InvalidCSV  must be valid UTF-8",
		"\xff\xfet\x00o\x00k\x00e\x00n": "InvalidCSV  must be valid UTF-8",
		strings.Repeat("x", 1<<15):      "LineTooLong  must have at most 16384 bytes",
	} {
		r := audience.NewReader(strings.NewReader(text+"apns,00\n"), config(audience.CSV))
		_, err := readAll(t, r)
		e, ok := errors.AsType[*audience.HeaderError](err)
		if !ok {
			t.Errorf("%.40q: %v", text, err)
			continue
		}
		if got := e.Reason + " " + e.Field + " " + e.Detail; !strings.HasPrefix(got, want) || strings.Contains(got, secret) || e.Line == 0 {
			t.Errorf("%.40q:\n got %s\nwant %s", text, got, want)
		}
		if _, again := r.Next(new(audience.Recipient)); again != err {
			t.Errorf("%.40q: the error is not final: %v", text, again)
		}
	}
}

func TestPlatformOfUploadIsTheDefault(t *testing.T) {
	cfg := config(audience.CSV)
	cfg.Platform = push.FCM
	all, err := readAll(t, audience.NewReader(strings.NewReader("token,platform\nabc,\n00,apns\n"), cfg))
	if err != nil || len(all) != 2 || all[0].Recipient.Platform != push.FCM || all[1].Recipient.Platform != push.APNs {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestEmptyUploadHasNoLines(t *testing.T) {
	for _, text := range []string{"", "\n", "\r\n \n", "\xef\xbb\xbf"} {
		for _, format := range []audience.Format{audience.NDJSON, audience.CSV} {
			if all, err := readAll(t, audience.NewReader(strings.NewReader(text), config(format))); err != nil || len(all) > 0 {
				t.Errorf("%s %q: %v, %v", format, text, all, err)
			}
		}
	}
}

// upload returns an upload with valid and malformed lines of all kinds.
func upload(format audience.Format) string {
	var text strings.Builder
	text.WriteString("\xef\xbb\xbf")
	if format == audience.CSV {
		text.WriteString("\n" + header)
	}
	for i, line := range malformed {
		if line.format != format {
			continue
		}
		text.WriteString(strings.ReplaceAll(line.line, "%s", iosToken) + "\r\n\n")
		if format == audience.CSV {
			fmt.Fprintf(&text, "fcm,token-%d,,,,,de,,,Zoë %d,\n", i, i)
		} else {
			fmt.Fprintf(&text, `{"platform":"fcm","token":"token-%d","variables":{"name":"Zoë %d"}}`+"\n", i, i)
		}
	}
	return text.String()
}

func TestReaderContinuesAtEachPosition(t *testing.T) {
	for _, format := range []audience.Format{audience.NDJSON, audience.CSV} {
		text := upload(format)
		want, err := readAll(t, audience.NewReader(strings.NewReader(text), config(format)))
		if err != nil {
			t.Fatal(err)
		}
		var got []result
		cfg := config(format)
		for range len(want) + 1 { // a new reader for each line
			r := audience.NewReader(iotest.OneByteReader(strings.NewReader(text[cfg.From.Offset:])), cfg)
			var one result
			var err error
			if one.Line, err = r.Next(&one.Recipient); err == io.EOF {
				break
			} else if err != nil {
				one.Recipient = audience.Recipient{}
				one.Error, _ = errors.AsType[*audience.LineError](err)
			}
			got = append(got, one)
			stored, err := json.Marshal(r.Position())
			if err != nil {
				t.Fatal(err)
			}
			cfg.From = audience.Position{}
			if err := json.Unmarshal(stored, &cfg.From); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", format, diff)
		}
	}
}

// TestPartialUploadIsReadToItsLastLine cuts an upload at each byte, reads the first part, and continues
// with the rest.
func TestPartialUploadIsReadToItsLastLine(t *testing.T) {
	const lines = "apns,00,,,,,,,,,\n\r\nfcm,a,,,,,,,,Zoë,\nfcm,b,c,,,,,,,,\n"
	text := "\xef\xbb\xbf" + header + lines
	want, err := readAll(t, audience.NewReader(strings.NewReader(text), config(audience.CSV)))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(text) {
		cfg := config(audience.CSV)
		cfg.Partial = true
		r := audience.NewReader(strings.NewReader(text[:cut]), cfg)
		got, err := readAll(t, r)
		if err != nil && err != io.ErrUnexpectedEOF || err == nil && cut > 0 && text[cut-1] != '\n' {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		cfg.From, cfg.Partial = r.Position(), false
		rest, err := readAll(t, audience.NewReader(strings.NewReader(text[cfg.From.Offset:]), cfg))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, append(got, rest...)); diff != "" {
			t.Errorf("cut at %d:\n%s", cut, diff)
		}
	}
}

func TestErrorOfInputIsFinal(t *testing.T) {
	broken := errors.New("broken")
	in := io.MultiReader(strings.NewReader(`{"platform":"apns","token":"00"}`+"\n"+`{"platform"`), iotest.ErrReader(broken))
	r := audience.NewReader(in, config(audience.NDJSON))
	all, err := readAll(t, r)
	if len(all) != 1 || !errors.Is(err, broken) || r.Position().Offset != 33 || r.Position().Line != 1 {
		t.Errorf("%v, %v, %+v", all, err, r.Position())
	}
}

func TestFormatOfContentType(t *testing.T) {
	for text, want := range map[string]audience.Format{
		"application/x-ndjson": audience.NDJSON, "text/csv; charset=utf-8": audience.CSV, "Text/CSV;header=present": audience.CSV, "application/json": "", "": "",
	} {
		if got, ok := audience.FormatOf(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
}
