// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"github.com/minio/highwayhash"

	"github.com/sluice-push/sluice/push"
)

// stableKey is the key of hashes that must be equal on all gateways and at all times. It is not secret.
var stableKey = []byte("sluice broadcast audience v1.   ")

// appendDevice appends what identifies the device of a recipient.
func appendDevice(b []byte, r *Recipient) []byte {
	n := push.Notification{Platform: r.Platform, Target: r.Target}
	b = append(b, r.Platform...)
	b = append(b, 0, byte(r.Target.Kind()))
	return append(b, n.Key()...)
}

// stableHash returns a hash of the device.
func (r *Recipient) stableHash() uint64 {
	var buffer [512]byte
	return highwayhash.Sum64(appendDevice(buffer[:0], r), stableKey)
}
