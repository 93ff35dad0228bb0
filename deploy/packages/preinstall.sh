#!/bin/sh
# Before the files of the package: some belong to this group.
set -e
getent group sluice >/dev/null || groupadd --system sluice
getent passwd sluice >/dev/null || useradd --system --gid sluice --home-dir /var/lib/sluice --no-create-home \
  --shell /usr/sbin/nologin --comment "Sluice push-notification gateway" sluice
