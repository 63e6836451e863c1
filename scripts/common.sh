# shellcheck shell=bash
# Shared by the scripts beside it; source it after `set -euo pipefail`.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CCACHE_SLOPPINESS=pch_defines,time_macros CCACHE_BASEDIR=$top CCACHE_NOHASHDIR=1
export PYTHONDONTWRITEBYTECODE=1

say() { printf '%s\n' "$*"; }
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# usage: prints the comment block at the head of the calling script.
usage() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  exit 0
}

# phase NAME SECONDS COMMAND...: runs a command with a deadline and its output in a log, and notes how long it took.
# After a failure the end of the log is shown; the caller decides what a failure means.
phase_names=()
phase_seconds=()
phase_verdicts=()
phase() {
  local name=$1 limit=$2 begun=$SECONDS verdict=ok log
  shift 2
  mkdir -p "$top/build/log"
  log=$top/build/log/${name// /-}.log
  say "== $name"
  timeout --kill-after=30 "$limit" "$@" >"$log" 2>&1 || verdict="failed ($?)"
  [ "$verdict" = ok ] || { tail -n 60 "$log"; say "-- $name: $verdict; the whole log: build/log/${name// /-}.log"; }
  phase_names+=("$name")
  phase_seconds+=($((SECONDS - begun)))
  phase_verdicts+=("$verdict")
  [ "$verdict" = ok ]
}

phase_table() {
  local i
  printf '\n%-28s %8s  %s\n' phase seconds verdict
  for i in "${!phase_names[@]}"; do
    printf '%-28s %8d  %s\n' "${phase_names[i]}" "${phase_seconds[i]}" "${phase_verdicts[i]}"
  done
}

# build PRESET [TARGET...]: configures and builds with all cores, politely.
build() {
  local preset=$1
  shift
  cd "$top" || return
  cmake --preset "$preset" || return
  nice cmake --build --preset "$preset" --parallel "$(nproc)" "${@/#/--target=}"
}

# test_targets PRESET: what scripts/test needs of it. Unit tests run under sanitizers, the others on what is shipped;
# benchmarks are only built, so that they stay true.
test_targets() {
  case $1 in
    release) echo virgad virga virga-guest virga-sim tests_real benches ;;
    dev) echo virga-sim tests_unit ;;
    clang) echo virga-sim ;;
  esac
}

# targets PRESET PATTERN: names of the configured targets that match, one a line.
targets() {
  cmake --build "$top/build/$1" --target help | sed -nE "s/^($2): phony$/\\1/p"
}
