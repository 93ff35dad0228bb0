// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/keyring"
)

// Verify reports whether Open would succeed with cfg, and streams of these sizes in bytes would fit,
// and returns what it found. It starts no server and leaves nothing behind.
func Verify(ctx context.Context, cfg Config, sizes map[string]int64) (found string, err error) {
	if cfg.Dir == "" {
		return verifyServer(ctx, cfg, sizes)
	}
	if err := VerifyDir(cfg.Dir); err != nil {
		return "", err
	}
	if err := verifyUnlocked(lockName(cfg.Dir)); err != nil {
		return "", err
	}
	existing := cfg.Dir
	for !isDir(existing) {
		existing = filepath.Dir(existing)
	}
	if left, ok := freeBytes(existing); ok && left < uint64(max(cfg.Reserve, 0)) {
		return "", fmt.Errorf("%w: %d bytes free on the disk of %s, %d bytes are reserved for accepted notifications", ErrFull, left, cfg.Dir, cfg.Reserve)
	}
	return cfg.Dir + " can be written and is not in use", nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// VerifyDir reports why files cannot be written to a directory, which need not exist yet.
func VerifyDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
		return VerifyDir(filepath.Dir(dir))
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	}
	test, err := os.MkdirTemp(dir, ".check-*")
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", dir, errors.Unwrap(err))
	}
	return os.Remove(test)
}

// checkStream is the stream that verifyServer creates for a moment.
const checkStream = "SLUICE_CHECK"

func verifyServer(ctx context.Context, cfg Config, sizes map[string]int64) (found string, err error) {
	timeout := apiTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	auth, err := cfg.Auth.options()
	if err != nil {
		return "", fmt.Errorf("jetstream: %w", err)
	}
	// The server does not answer a request that the user may not send.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	denied := func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			cancel(err)
		}
	}
	conn, err := nats.Connect(cfg.URL, append(auth, nats.Name("sluice check"), nats.Timeout(timeout), nats.ErrorHandler(denied))...)
	if _, ok := errors.AsType[*url.Error](err); ok {
		return "", errors.New("jetstream: the URL is invalid") // the error contains the password
	}
	if err != nil {
		return "", fmt.Errorf("jetstream: cannot connect: %w", err)
	}
	defer conn.Close()
	js, err := natsjs.New(conn)
	if err != nil {
		return "", fmt.Errorf("jetstream: %w", err)
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, nats.ErrPermissionViolation) {
			return "", fmt.Errorf("jetstream: %w", cause)
		}
		return "", fmt.Errorf("jetstream: JetStream (is it enabled?): %w", err)
	}
	missing, err := missingBytes(ctx, js, cfg.Keys, sizes)
	if _, lacks := errors.AsType[*keyring.MissingKeyError](err); lacks {
		return "", err
	}
	if err == nil && missing > 0 {
		err = reserveForAMoment(ctx, js, max(cfg.Replicas, 1), missing)
	}
	if _, refused := errors.AsType[*natsjs.APIError](err); refused {
		return "", fmt.Errorf("jetstream: cannot store %d bytes with %d replicas: %w", missing, max(cfg.Replicas, 1), err)
	}
	found = "connected to NATS " + conn.ConnectedServerVersion()
	if err != nil { // such as a user that may create only the streams of the gateway
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Sprintf("%s; the storage for the streams is not verified: %v", found, err), nil
	}
	return found + ", which has the storage for the streams", nil
}

// Fix returns what to do about an error of Verify for a server.
func Fix(err error) string {
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return "set queue.nats.ca_file to the certificate authority of the servers"
	}
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return "the servers refuse the user: correct the user and the password in the URL, queue.nats.credentials_file, nkey_file or cert_file"
	case errors.Is(err, nats.ErrPermissionViolation):
		return "allow the user the subjects that a gateway needs: docs/operations.md, The queue"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "the servers have no TLS: use nats:// in the URL, or configure TLS in the servers"
	case errors.Is(err, natsjs.ErrJetStreamNotEnabled), errors.Is(err, natsjs.ErrJetStreamNotEnabledForAccount):
		return "enable JetStream in the configuration of the servers, and for the account of the user"
	}
	if refused, ok := errors.AsType[*natsjs.APIError](err); ok {
		switch natsserver.ErrorIdentifier(refused.ErrorCode) {
		case natsserver.JSStreamReplicasNotSupportedErr, natsserver.JSClusterNoPeersErrF:
			return "set queue.nats.replicas to at most the number of servers, or start the missing servers of the cluster"
		case natsserver.JSStorageResourcesExceededErr, natsserver.JSInsufficientResourcesErr:
			return "raise max_file_store of the servers or the limit of the account, or lower queue.max_bytes and history.max_bytes"
		}
	}
	return "check the URL and the credentials of the cluster, and that it has JetStream with enough storage for this account"
}

// missingBytes returns how much the streams need in addition to what existing ones have reserved. The error
// is a *keyring.MissingKeyError if the messages of one need another key.
func missingBytes(ctx context.Context, js natsjs.JetStream, keys *keyring.Ring, sizes map[string]int64) (missing int64, err error) {
	for name, size := range sizes {
		stream, err := js.Stream(ctx, name)
		switch {
		case errors.Is(err, natsjs.ErrStreamNotFound):
			missing += size
		case err != nil:
			return 0, err
		default:
			missing += max(size-max(stream.CachedInfo().Config.MaxBytes, 0), 0)
			uses, err := keyUses(ctx, stream, ">")
			if err == nil {
				err = checkUses(stream, uses, keys)
			}
			if err != nil {
				return 0, err
			}
		}
	}
	return missing, nil
}

// reserveForAMoment creates and deletes a stream with the size and the features that the gateway
// needs. The server has no other way to find out whether that is possible.
func reserveForAMoment(ctx context.Context, js natsjs.JetStream, replicas int, size int64) error {
	_ = js.DeleteStream(ctx, checkStream) // of a check that was killed
	_, err := js.CreateStream(ctx, natsjs.StreamConfig{
		Name: checkStream, Subjects: []string{"sluice.check"}, MaxBytes: size, Replicas: replicas, AllowMsgSchedules: true,
	})
	if err != nil {
		return err
	}
	return js.DeleteStream(ctx, checkStream)
}
