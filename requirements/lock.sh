# Update the lock files. They have versions and hashes, but no addresses; uv's configured index is used.
set -eu
compile="${UV:-.venv/bin/python -m uv} pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header"
$compile pyproject.toml --constraint requirements/stable.in -o requirements/lock.txt "$@"
extras=$(printf -- '--extra %s ' dev docs oracles peers timm lite export serve hub bands geo detection)
# shellcheck disable=SC2086
$compile pyproject.toml $extras --constraint requirements/stable.in --constraint requirements/lock.txt -o requirements/lock-dev.txt "$@"
# for test-oldest: the oldest direct dependencies that pyproject.toml allows, with the newest indirect ones
# shellcheck disable=SC2086
$compile pyproject.toml $extras --constraint requirements/stable.in --resolution lowest-direct -o requirements/lock-oldest.txt "$@"
# for test-next: the development lock with the next Hydra, a pre-release
cp requirements/lock-dev.txt requirements/lock-next.txt
# shellcheck disable=SC2086
echo "hydra-core==1.4.0rc3" |
  $compile pyproject.toml $extras --override /dev/stdin -o requirements/lock-next.txt "$@"
