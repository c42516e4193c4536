#!/usr/bin/env bash
# Adds an optimizer to a copy of the tree by CONTRIBUTING's recipe, two new files and two lines, and runs the tests
# there.  Every test that is parametrised over the registry must include it.
#     bash tests/recipe/run.sh WORKDIR     (pytest on the PATH)
set -euo pipefail
work=$1
git clone --quiet --no-hardlinks . "$work/tree"
cd "$work/tree"

cp tests/recipe/adamod.h csrc/rules/recipe_adamod.h
cp tests/recipe/adamod.py python/fastoptim/rules/recipe_adamod.py
sed -i 's|^#include "rules/rmsprop.h"|#include "rules/recipe_adamod.h"\n&|' csrc/rules.h
sed -i 's|^from .rules.rmsprop import|from .rules.recipe_adamod import RecipeAdaMod as RecipeAdaMod\n&|' python/fastoptim/__init__.py
git add -A
git diff --cached --stat
test "$(git diff --cached --name-only | wc -l)" = 4
test "$(git diff --cached --numstat -- csrc/rules.h python/fastoptim/__init__.py | awk '{n += $1 + $2} END {print n}')" = 2

pip install --quiet --target "$work/site" --no-deps .
rm -rf python  # so that nothing but the installed copy can be imported
PYTHONPATH=$work/site python -m pytest -q -k "recipe_adamod" | tee "$work/log"
picked=$(grep -oP '\d+(?= passed)' "$work/log")
echo "$picked tests include the new optimizer"
test "$picked" -ge 50
