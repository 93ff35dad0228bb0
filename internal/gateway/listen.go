// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/sluice-push/sluice/internal/config"
)

// listen opens a listener.
func listen(ctx context.Context, at config.Address, socketMode string) (net.Listener, error) {
	switch network, address := at.Split(); network {
	case "unix":
		return listenUnix(ctx, address, socketMode)
	case "systemd":
		return systemdListener(address)
	default:
		return new(net.ListenConfig).Listen(ctx, network, address)
	}
}

// listenUnix opens a Unix socket. It replaces the socket of a gateway that was killed.
func listenUnix(ctx context.Context, path, mode string) (net.Listener, error) {
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && isAbandoned(ctx, path) {
		if err = os.Remove(path); err == nil {
			l, err = new(net.ListenConfig).Listen(ctx, "unix", path)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, fs.FileMode(bits)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// isAbandoned reports whether path is a socket without a listener.
func isAbandoned(ctx context.Context, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		return false
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// passedListeners returns the sockets that systemd has passed to the process, by name. Like systemd's
// own function, it clears the variables, so that child processes do not use them.
var passedListeners = sync.OnceValues(activation.ListenersWithNames)

func systemdListener(name string) (net.Listener, error) {
	passed, err := passedListeners()
	if err != nil {
		return nil, err
	}
	switch found := passed[name]; len(found) {
	case 1:
		return found[0], nil
	case 0:
		all := "none"
		if len(passed) > 0 {
			all = strings.Join(slices.Sorted(maps.Keys(passed)), ", ")
		}
		return nil, fmt.Errorf("systemd has passed no socket with the name %s (passed: %s; the name is FileDescriptorName= in the socket unit)", name, all)
	default:
		return nil, fmt.Errorf("systemd has passed %d sockets with the name %s (give each its own unit and FileDescriptorName=)", len(found), name)
	}
}

// addrText returns the address of a listener in the form of the configuration.
func addrText(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix:" + addr.String()
	}
	return addr.String()
}
