#!/bin/sh
# Stops the gateway if the package is removed, but not for an upgrade. dpkg says remove, rpm says 0.
set -e
case "$1" in
  remove | 0) ;;
  *) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
systemctl disable --now sluice.service
