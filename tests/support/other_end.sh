#!/bin/sh
# The end-to-end tests beside one release of Axolotl, in an environment of its own.
#
#   other_end.sh RELEASE ENVIRONMENT PYTHON...    the first interpreter found on PATH or under pyenv is taken
#
# Exit code 1, or UNLESS_INSTALLED, where the release cannot be installed: gigabytes come from the package index.
set -eu
release=$1 environment=$2
shift 2
for name in "$@"; do
  for candidate in "$(command -v "$name" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/${name#python}".*/bin/python; do
    # A shim of pyenv's is there for every version and runs only some.
    if [ -x "$candidate" ] && "$candidate" -c "import venv, ensurepip" 2>/dev/null; then
      echo "== Axolotl $release, $("$candidate" --version), in $environment"
      # Started from a make of its own, whose variables must not reach this one.
      if ! MAKEFLAGS='' "${MAKE:-make}" install AXOLOTL="$release" VENV="$environment" PYTHON="$candidate"; then
        echo "== Axolotl $release: NOT RUN, it could not be installed (see above)"
        exit "${UNLESS_INSTALLED:-1}"
      fi
      exec "$environment/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m e2e
    fi
  done
done
echo "== Axolotl $release: SKIPPED, none of $* was found on PATH or under pyenv; docs/compatibility.md says what was run"
