#!/bin/sh
# Restarts a gateway that was running before an upgrade. A new installation starts nothing: its
# configuration has no app yet.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
systemctl try-restart sluice.service || true # journalctl -u sluice says why
systemctl is-enabled --quiet sluice.service || cat <<EOF
Sluice is installed. Next:
  1. Edit /etc/sluice/gateway.yaml.
  2. sudo -u sluice gateway check -c /etc/sluice/gateway.yaml
  3. systemctl enable --now sluice
EOF
