#!/usr/bin/env bash
# What happens on a machine that trains: the scripts beside this file call it there, through ssh.
#
#   on_host.sh install EXTRA COMMAND   make .venv with jdt (and jdt[EXTRA]), then run COMMAND; either may be empty
#   on_host.sh installed               exit code 0 if install came to its end
#   on_host.sh start MODULE ARGS...    start python -m MODULE ARGS in the background, unless one is running
#   on_host.sh status                  whether it runs, or how it ended, and its last lines
#   on_host.sh stop                    end it: SIGTERM, and SIGKILL ten seconds later
#
# One worker a folder and host. It holds logs/HOST.lock as long as it lives, so a stale process number misleads nobody;
# the host is in the name because homes may be shared.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
state=logs/$(hostname)
installed=.venv/.on_host

# Python 3.11 first: constraints.txt is made for it.
make_environment() {
  local python
  for python in python3.11 python3.12 python3.13 python3; do
    if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv --clear .venv
      return
    fi
  done
  # The images of Cloud TPU VMs have Python 3.10; uv brings a newer one without root.
  python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --clear --seed --python 3.11 .venv
}

install() {
  rm -f "$installed"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || make_environment
  .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".${1:+[$1]}"
  if [[ -n $2 ]]; then bash -c "$2"; fi
  : >"$installed"
  echo "$(hostname): installed"
}

# Take the lock if nobody holds it, waiting as many seconds as given.
lock() {
  mkdir -p logs
  exec 9>>"$state.lock"
  flock --timeout "$1" 9
}

start() {
  if [[ ! -e $installed ]]; then
    echo "$(hostname): not installed: run the sub-command install first" >&2
    exit 2
  fi
  if ! lock 1; then
    echo "$(hostname): already running"
    return
  fi
  rm -f "$state.exit"
  # The worker inherits the lock, and keeps it when this shell ends.
  setsid bash tpu_setup/on_host.sh work "$@" </dev/null >>"$state.log" 2>&1 &
  echo "$(hostname): started, log in $PWD/$state.log"
}

work() {
  local code=0
  echo "== $(date -u +%FT%TZ) $*"
  .venv/bin/python -m "$@" &
  echo $! >"$state.pid"
  wait $! || code=$?
  echo "$code" >"$state.exit"
}

status() {
  if [[ ! -e $state.log ]]; then
    echo "$(hostname): never started"
  elif ! lock 0; then
    echo "$(hostname): running"
  elif [[ -e $state.exit ]]; then
    echo "$(hostname): ended with exit code $(cat "$state.exit")"
  else
    echo "$(hostname): killed"
  fi
  if [[ -e $state.log ]]; then tail -n 5 "$state.log"; fi
}

stop() {
  if ! lock 0; then
    kill -TERM "$(cat "$state.pid")" 2>/dev/null || true # It may have ended since.
    lock 10 || kill -KILL "$(cat "$state.pid")"
  fi
  echo "$(hostname): not running"
}

case ${1:-} in
  install | start | work | status | stop) "$@" ;;
  installed) [[ -e $installed ]] ;;
  *) sed -n '4,8s/^# *//p' tpu_setup/on_host.sh >&2 && exit 2 ;;
esac
