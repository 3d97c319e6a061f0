# Renew the locks. They hold versions and hashes, no addresses: the index is whatever uv is set up to use.
set -eu
compile="${UV:-.venv/bin/python -m uv} pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header"
$compile pyproject.toml -o requirements/lock.txt "$@"
extras=$(printf -- '--extra %s ' dev oracles peers timm export serve hub bands geo detection)
# shellcheck disable=SC2086
$compile pyproject.toml $extras --constraint requirements/lock.txt -o requirements/lock-dev.txt "$@"
# what test-oldest runs on: every package as old as pyproject.toml admits, what these bring along as new as fits
# shellcheck disable=SC2086
$compile pyproject.toml $extras --resolution lowest-direct -o requirements/lock-oldest.txt "$@"
# what test-next runs on: the development lock with the next Hydra, a pre-release
cp requirements/lock-dev.txt requirements/lock-next.txt
# shellcheck disable=SC2086
echo "hydra-core==1.4.0rc3" |
  $compile pyproject.toml $extras --override /dev/stdin -o requirements/lock-next.txt "$@"
