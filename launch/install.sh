#!/usr/bin/env bash
# Makes .venv with $PYTHON (default python3), and installs requirement files and the package itself
# (editable, so that a change of the code needs no new installation) into it, once.
#   launch/install.sh requirements.txt [more.txt ...]
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv
stamp=$venv/installed

if [[ ! -x $venv/bin/python ]]; then
  "$python" - <<'CHECK' || exit 2
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"error: {sys.executable} is Python {sys.version.split()[0]}; "
             "set PYTHON to one of 3.11, 3.12 or 3.13")
CHECK
  "$python" -m venv "$venv" || {
    rm -rf "$venv" # a part of one would be taken for a whole one
    echo "error: $python cannot make a virtual environment (on Debian: apt install python3-venv)" >&2
    exit 2
  }
fi

wanted=$(cat pyproject.toml "$@")
[[ -f $stamp && $(cat "$stamp") == *"$wanted"* ]] && exit 0

arguments=(--editable .)
for file in "$@"; do arguments+=(-r "$file"); done
echo "installing amdjax and $* into $venv" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
printf '%s\n' "$wanted" >"$stamp.partial"
mv "$stamp.partial" "$stamp"
