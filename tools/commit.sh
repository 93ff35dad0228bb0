#!/bin/sh
# Prints the commit of the work tree from .git/HEAD and the refs only, without the objects: the context of an image
# build contains no more of .git. Prints nothing if it is unknown.
cd "$(dirname "$0")/.." || exit 1
[ -f .git/HEAD ] || exit 0
read -r kind ref <.git/HEAD
if [ "$kind" != ref: ]; then
  echo "$kind"
elif [ -f ".git/$ref" ]; then
  cat ".git/$ref"
elif [ -f .git/packed-refs ]; then
  awk -v ref="$ref" '$2 == ref { print $1 }' .git/packed-refs
fi
