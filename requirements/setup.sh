# sh requirements/setup.sh PYTHON LOCK STAMP [VENV]: create or update VENV (.venv) from a hash-locked file. Safe to
# interrupt.
set -eu
python=$1 lock=$2 stamp=$3 venv=${4:-.venv}

"$python" - <<'PY' || exit 1
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit("segkit needs Python 3.11 to 3.14, this is %d.%d. Choose one: make PYTHON=python3.12"
             % sys.version_info[:2])
PY

if ! "$venv/bin/python" -c "import pip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))" 2>/dev/null; then
  rm -rf "$venv"
  echo "creating $venv (about 6 GB with PyTorch) ..."
  "$python" -m venv "$venv" || {
    rm -rf "$venv"
    echo "cannot create a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  }
fi
rm -f "$stamp"
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}" # use the certificates of the system
if [ -n "${SSL_CERT_FILE:-}" ]; then # uv reads it, pip does not
  export PIP_CERT="${PIP_CERT:-$SSL_CERT_FILE}"
fi
# pip and uv use the same index: uv reads neither pip's variable nor its configuration
index=${PIP_INDEX_URL:-${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || :)}}}
if [ -n "$index" ]; then
  export PIP_INDEX_URL="$index"
  [ -n "${UV_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
UV_LINK_MODE=${UV_LINK_MODE:-hardlink} "$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" \
  --require-hashes --build-constraint requirements/build.txt -r "$lock"
cp "$lock" "$stamp"
