// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/sluice-push/sluice/client"
)

// broadcastCmd has the flags of all its commands, which get it as an argument of Run.
type broadcastCmd struct {
	target
	Key     string        `env:"SLUICE_KEY,GATEWAY_KEY" required:"" help:"API key with the scope broadcasts, or read for what changes nothing. Prefer the environment variable: other users of the machine can see flags."`
	App     string        `required:"" help:"App of the broadcast."`
	JSON    bool          `name:"json" help:"Print the response of the gateway as JSON."`
	Timeout time.Duration `default:"60s" help:"How long to wait for a response, or during an upload for progress."`

	Create   createBroadcastCmd  `cmd:"" help:"Create a broadcast from a definition in JSON, and print its ID."`
	Update   updateBroadcastCmd  `cmd:"" help:"Replace the definition of a broadcast that has not started."`
	Preview  previewBroadcastCmd `cmd:"" help:"Print what the providers get, for each platform, variant and language."`
	Upload   uploadBroadcastCmd  `cmd:"" help:"Upload the audience of a broadcast."`
	Validate broadcastStepCmd    `cmd:"" help:"Check the audience, wait for the result, and print the lines that cannot be sent."`
	Approve  broadcastStepCmd    `cmd:"" help:"Approve a large broadcast of another caller. The key needs the scope approve."`
	Start    broadcastStepCmd    `cmd:"" help:"Start a broadcast, at once or at the time in its schedule."`
	Pause    broadcastStepCmd    `cmd:"" help:"Pause a broadcast or its recall. No attempt starts any more when the command returns."`
	Resume   broadcastStepCmd    `cmd:"" help:"Continue a broadcast that is paused."`
	Cancel   broadcastStepCmd    `cmd:"" help:"End a broadcast. What waits is not sent."`
	Recall   recallBroadcastCmd  `cmd:"" help:"Send the recall message to every device that has got the message, or may have."`
	List     listBroadcastsCmd   `cmd:"" help:"List the broadcasts of the app, the newest first."`
	Show     showBroadcastCmd    `cmd:"" help:"Print a broadcast with its progress and the failures by reason."`
	Results  broadcastResultsCmd `cmd:"" help:"Export what happened to each line of the audience."`
	Devices  broadcastDevicesCmd `cmd:"" help:"Estimate the unique devices of broadcasts, of each and of all together."`
	Delete   deleteBroadcastCmd  `cmd:"" help:"Delete a broadcast that has not started, or has ended, with its audience and results."`
}

// Help returns the description and examples.
func (broadcastCmd) Help() string {
	return `Example with the key that gateway dev printed:

    export SLUICE_KEY=slk_...
    id=$(gateway broadcast create --app demo broadcast.json)
    gateway broadcast preview --app demo $id --platform fcm
    gateway broadcast upload --app demo $id audience.ndjson
    gateway broadcast validate --app demo $id
    gateway broadcast start --app demo $id
    gateway broadcast show --app demo $id --watch

All commands except create, recall and delete can be repeated: a command that has had its effect changes nothing.`
}

// connect returns the broadcasts of the app.
func (c *broadcastCmd) connect() (*client.Broadcasts, error) {
	httpClient, base, err := c.target.connect()
	if err != nil {
		return nil, err
	}
	return client.NewBroadcasts(base, c.App, client.Key(c.Key), httpClient.Transport), nil
}

// call connects and calls f with a context that ends after the timeout.
func (c *broadcastCmd) call(p process, f func(ctx context.Context, b *client.Broadcasts) error) error {
	b, err := c.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p, c.Timeout)
	defer cancel()
	return c.userError(f(ctx, b))
}

// userError returns the error for the user. It is a usageError if the gateway has refused the request as
// invalid.
func (c *broadcastCmd) userError(err error) error {
	if err == nil || errors.Is(err, errReported) {
		return err
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("broadcast: no response from %s: %w", c.URL, err)
	}
	said := fmt.Errorf("broadcast: %s", strings.TrimPrefix(err.Error(), "client: "))
	if e, ok := errors.AsType[*client.Error](err); ok && strings.HasPrefix(e.Type, "invalid-") && e.Type != "invalid-token" {
		return usageError{said}
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return err
	}
	return said
}

// print prints a broadcast.
func (c *broadcastCmd) print(p process, b *client.Broadcast) {
	if c.JSON {
		c.printJSON(p, b.JSON)
		return
	}
	for _, line := range newBroadcastView(p.stdout).render(b) {
		printf(p.stdout, "%s\n", line)
	}
}

// printJSON prints JSON with indentation.
func (c *broadcastCmd) printJSON(p process, v any) {
	encoder := json.NewEncoder(p.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(v) // it has been parsed
}

type createBroadcastCmd struct {
	File string `arg:"" type:"existingfile" help:"Definition of the broadcast: a JSON object."`
}

// Help returns the description and examples.
func (createBroadcastCmd) Help() string {
	return `Example of a definition:

    {
      "name": "Spring sale",
      "message": {"title": "Hello {{name|there}}", "body": "Everything must go."},
      "audience": {"platform": "fcm"},
      "rate": {"per_minute": 60000},
      "recall": {"message": {"title": "The sale starts tomorrow"}}
    }

Prints the ID, or with --json the broadcast.`
}

// Run creates the broadcast.
func (s createBroadcastCmd) Run(p process, c *broadcastCmd) error {
	definition, err := readJSONFile(s.File)
	if err != nil {
		return err
	}
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		created, err := b.Create(ctx, definition)
		if err == nil && c.JSON {
			c.printJSON(p, created.JSON)
		} else if err == nil {
			printf(p.stdout, "%s\n", created.ID)
		}
		return err
	})
}

type updateBroadcastCmd struct {
	broadcastID
	File string `arg:"" type:"existingfile" help:"New definition of the broadcast: a JSON object."`
}

// Help returns the description and examples.
func (updateBroadcastCmd) Help() string {
	return `Example:

    gateway broadcast show --app demo ID --definition >broadcast.json
    gateway broadcast update --app demo ID broadcast.json

The new definition replaces the whole old one. The uploaded audience stays. The broadcast is a draft afterwards: validate it again.`
}

// Run replaces the definition and prints the broadcast.
func (s updateBroadcastCmd) Run(p process, c *broadcastCmd) error {
	definition, err := readJSONFile(s.File)
	if err != nil {
		return err
	}
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		updated, err := b.Replace(ctx, s.ID, definition, "")
		if err == nil {
			c.print(p, updated)
		}
		return err
	})
}

// readJSONFile returns the JSON in a file.
func readJSONFile(name string) (json.RawMessage, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, usageError{fmt.Errorf("broadcast: %w", err)}
	}
	var v json.RawMessage
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, usageError{fmt.Errorf("broadcast: %s: must be JSON: %w", name, err)}
	}
	return v, nil
}

// broadcastID is the argument of the commands for one broadcast.
type broadcastID struct {
	ID string `arg:"" help:"ID of the broadcast."`
}

// broadcastStepCmd is a command of the API without options. Its name is that of the command line.
type broadcastStepCmd struct{ broadcastID }

// Run executes the command and prints the broadcast.
func (s broadcastStepCmd) Run(p process, parsed *kong.Context, c *broadcastCmd) error {
	command := client.BroadcastCommand(parsed.Selected().Name)
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		changed, err := b.Do(ctx, s.ID, command, client.CommandOptions{})
		if err != nil {
			return err
		}
		if command == client.CommandValidate {
			return c.finishValidation(p, b, changed)
		}
		c.print(p, changed)
		return nil
	})
}

// maxInvalid is how many lines that cannot be sent are printed.
const maxInvalid = 100

// finishValidation waits for the result of a validation and prints it. A large audience takes longer than the
// timeout of a response.
func (c *broadcastCmd) finishValidation(p process, b *client.Broadcasts, v *client.Broadcast) (err error) {
	for v.State == client.BroadcastValidating {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-p.Done():
			return errors.New("interrupted; the validation continues")
		}
		if v, err = b.Get(p, v.ID); err != nil {
			return err
		}
	}
	c.print(p, v)
	printed := 0
	for line, err := range b.Invalid(p, v.ID) {
		if err != nil {
			return err
		}
		if printed++; printed > maxInvalid {
			printf(p.stderr, "broadcast: only the first %d lines that cannot be sent are printed\n", maxInvalid)
			break
		}
		printf(p.stderr, "line %d: %s: %s\n", line.Line, line.Reason, cmp.Or(line.Detail, line.Field))
	}
	if v.State == client.BroadcastDraft {
		return errReported
	}
	return nil
}

type uploadBroadcastCmd struct {
	broadcastID
	File     string `arg:"" type:"existingfile" help:"Audience: NDJSON, or CSV with a header if the name ends in .csv."`
	Format   string `enum:",ndjson,csv" default:"" help:"ndjson or csv, in place of what the name of the file says."`
	Continue bool   `help:"Continue an upload of the same file that was interrupted. Otherwise an earlier upload is replaced."`
}

// Help returns the description and examples.
func (uploadBroadcastCmd) Help() string {
	return `Examples:

    gateway broadcast upload --app demo ID audience.ndjson
    gateway broadcast upload --app demo ID audience.ndjson --continue

If the connection or the gateway is lost, the upload continues where the stored part ends, until there is no progress for --timeout. Prints the progress on standard error.`
}

// Run uploads the audience.
func (s uploadBroadcastCmd) Run(p process, c *broadcastCmd) error {
	b, err := c.connect()
	if err != nil {
		return err
	}
	file, err := os.Open(s.File)
	if err != nil {
		return usageError{fmt.Errorf("broadcast: %w", err)}
	}
	defer func() { _ = file.Close() }() // opened for reading only
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return usageError{fmt.Errorf("broadcast: %s: must be a regular file, because the upload continues in it after a broken connection", s.File)}
	}
	format := cmp.Or(client.AudienceFormat(s.Format), client.NDJSON)
	if s.Format == "" && strings.EqualFold(filepath.Ext(s.File), ".csv") {
		format = client.CSV
	}
	ctx, cancel := context.WithCancelCause(p)
	defer cancel(nil)
	stalled := time.AfterFunc(c.Timeout, func() { cancel(fmt.Errorf("no progress for %s", c.Timeout)) })
	defer stalled.Stop()
	shown := &uploadProgress{progress: newProgress(p.stderr, info.Size())}
	err = b.Upload(ctx, s.ID, client.Audience{Format: format, Content: file, Continue: s.Continue, Progress: func(offset int64, err error) {
		if shown.update(offset, err) {
			stalled.Reset(c.Timeout)
		}
	}})
	shown.clear()
	if err == nil {
		printf(p.stderr, "broadcast: %s uploaded in %s\n", size(info.Size()), time.Since(shown.start).Round(time.Millisecond))
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("%w (to continue, run the same command with --continue)", err)
	}
	return c.userError(err)
}

// uploadProgress shows the progress of an upload.
type uploadProgress struct {
	*progress
	furthest int64
}

// update shows the progress, and reports whether there is any.
func (u *uploadProgress) update(offset int64, err error) bool {
	if err != nil {
		u.clear()
		printf(u.output, "broadcast: %s; continuing at byte %d\n", strings.TrimPrefix(err.Error(), "client: "), offset)
	}
	advanced := offset > u.furthest
	u.furthest = max(u.furthest, offset)
	interval := lineInterval
	if u.isTerminal {
		interval = barInterval
	}
	if time.Since(u.lastShown) < interval {
		return advanced
	}
	u.lastShown = time.Now()
	text := fmt.Sprintf("%d %%, %s of %s", 100*offset/max(u.size, 1), size(offset), size(u.size))
	if u.isTerminal {
		printf(u.output, "\r[%s] %s\x1b[K", bar(offset, u.size), text)
	} else {
		printf(u.output, "broadcast: %s\n", text)
	}
	return advanced
}

type recallBroadcastCmd struct {
	broadcastID
	Message string `type:"existingfile" placeholder:"FILE" help:"Recall message in JSON, in place of that of the definition, such as {\"message\":{\"title\":\"Sorry\"}}."`
	Yes     bool   `help:"Do not ask. Required if standard input is not a terminal."`
}

// Help returns the description and examples.
func (recallBroadcastCmd) Help() string {
	return `Example:

    gateway broadcast recall --app demo ID

Cancels what waits, and sends the recall message to every device that has accepted the message, or may have received it. Asks first, with the number of devices. No push service takes back a message that a device has displayed: the recall message replaces it where the platform can.`
}

// Run recalls the broadcast.
func (s recallBroadcastCmd) Run(p process, c *broadcastCmd) error {
	if !s.Yes && !isTerminal(os.Stdin) {
		return usageError{errors.New("broadcast: recall asks before it sends; without a terminal, pass --yes")}
	}
	options := client.CommandOptions{}
	if s.Message != "" {
		message, err := readJSONFile(s.Message)
		if err != nil {
			return err
		}
		options.Recall = message
	}
	if !s.Yes {
		confirmed, err := s.confirm(p, c)
		if err != nil || !confirmed {
			return cmp.Or(err, errReported)
		}
	}
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		recalled, err := b.Do(ctx, s.ID, client.CommandRecall, options)
		if err == nil {
			c.print(p, recalled)
		}
		return err
	})
}

// confirm asks the user, who can take any time.
func (s recallBroadcastCmd) confirm(p process, c *broadcastCmd) (yes bool, err error) {
	var v *client.Broadcast
	if err := c.call(p, func(ctx context.Context, b *client.Broadcasts) (err error) {
		v, err = b.Get(ctx, s.ID)
		return err
	}); err != nil {
		return false, err
	}
	reached, waiting := 0, 0
	if v.Counts != nil {
		reached, waiting = v.Counts.Reached(), v.Counts.Pending+v.Counts.Queued
	}
	printf(p.stderr, "Recall %s %q: send the recall message to %s devices", v.ID, v.Name, group(reached))
	if !v.IsFinished() {
		printf(p.stderr, ", and to those that get the message until then; cancel %s notifications that wait", group(waiting))
	}
	printf(p.stderr, "? [y/N] ")
	q := &questions{process: p, lines: make(chan string)}
	go q.read() // ends with the process: a read of a terminal cannot be canceled
	select {
	case answer := <-q.lines:
		yes = slices.Contains([]string{"y", "yes"}, strings.ToLower(answer))
	case <-p.Done():
	}
	if !yes {
		printf(p.stderr, "Nothing was changed.\n")
	}
	return yes, nil
}

type listBroadcastsCmd struct{}

// Run prints the broadcasts.
func (listBroadcastsCmd) Run(p process, c *broadcastCmd) error {
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		list, err := b.List(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			all := []json.RawMessage{}
			for _, v := range list {
				all = append(all, v.JSON)
			}
			c.printJSON(p, all)
			return nil
		}
		table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		printf(table, "ID\tSTATE\tCREATED\tDEVICES\tENDED\tNAME\n")
		for _, v := range list {
			devices, ended := "-", "-"
			if n := v.Current(); n != nil {
				devices, ended = group(n.Total), percent(n.Ended(), n.Total)
			}
			printf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", v.ID, v.State, v.CreatedAt.UTC().Format("2006-01-02 15:04"), devices, ended, oneLine(v.Name))
		}
		return table.Flush()
	})
}

type deleteBroadcastCmd struct{ broadcastID }

// Run deletes the broadcast.
func (s deleteBroadcastCmd) Run(p process, c *broadcastCmd) error {
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error { return b.Delete(ctx, s.ID) })
}

type showBroadcastCmd struct {
	broadcastID
	Definition bool          `xor:"watch" help:"Print only the definition in JSON, which create and update take."`
	Watch      bool          `xor:"watch" help:"Refresh until all notifications have ended."`
	Interval   time.Duration `default:"1s" help:"Time between two refreshes."`
}

// Run prints the broadcast, with --watch until it has ended.
func (s showBroadcastCmd) Run(p process, c *broadcastCmd) error {
	b, err := c.connect()
	if err != nil {
		return err
	}
	view := newBroadcastView(p.stdout)
	for shown := 0; ; {
		ctx, cancel := context.WithTimeout(p, c.Timeout)
		v, err := b.Get(ctx, s.ID)
		cancel()
		switch {
		case p.Err() != nil:
			return nil
		case err != nil:
			return c.userError(err)
		}
		if s.Definition {
			definition, err := v.Definition()
			c.printJSON(p, definition)
			return err
		}
		last := !s.Watch || v.IsFinished()
		switch {
		case last && (shown == 0 || c.JSON || !view.isTerminal()):
			c.print(p, v)
		case !view.isTerminal() && !last:
			printf(p.stdout, "%s\n", view.summary(v))
			shown++
		default:
			shown = view.redraw(p.stdout, v, shown)
		}
		if last {
			return nil
		}
		select {
		case <-time.After(max(s.Interval, 100*time.Millisecond)):
		case <-p.Done():
			return nil
		}
	}
}

type broadcastResultsCmd struct {
	broadcastID
	Format string `enum:"ndjson,csv" default:"ndjson" help:"ndjson or csv."`
}

// Run writes the results to standard output.
func (s broadcastResultsCmd) Run(p process, c *broadcastCmd) error {
	b, err := c.connect()
	if err != nil {
		return err
	}
	return c.userError(b.Export(p, s.ID, client.AudienceFormat(s.Format), p.stdout))
}

type broadcastDevicesCmd struct {
	IDs []string `arg:"" name:"id" help:"IDs of validated broadcasts, up to 100."`
}

// Help returns the description and examples.
func (broadcastDevicesCmd) Help() string {
	return `Example:

    gateway broadcast devices --app demo ID ID

A device in the audiences of several broadcasts counts once in the last line.`
}

// Run prints the numbers of devices.
func (s broadcastDevicesCmd) Run(p process, c *broadcastCmd) error {
	return c.call(p, func(ctx context.Context, b *client.Broadcasts) error {
		found, err := b.Devices(ctx, s.IDs...)
		if err != nil {
			return err
		}
		if c.JSON {
			c.printJSON(p, found)
			return nil
		}
		table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		printf(table, "ID\tDEVICES\tNAME\n")
		for _, one := range found.Broadcasts {
			printf(table, "%s\t%s\t%s\n", one.ID, group(one.Devices), oneLine(one.Name))
		}
		printf(table, "all together\t%s\testimated, standard error %.1f %%\n", group(found.Devices), 100*found.StandardError)
		return table.Flush()
	})
}

// failures are the counts of what was not accepted, the most frequent first.
func failures(c *client.BroadcastCounts) []client.BroadcastCount {
	rows := slices.DeleteFunc(slices.Clone(c.By), func(n client.BroadcastCount) bool { return n.Status == "accepted" || n.Status == "queued" })
	slices.SortStableFunc(rows, func(a, b client.BroadcastCount) int { return cmp.Compare(b.Count, a.Count) })
	return rows
}
