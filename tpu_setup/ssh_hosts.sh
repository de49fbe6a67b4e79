#!/usr/bin/env bash
# A run on machines that are there already and answer to ssh: one worker a host.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Usage: ssh_hosts.sh SUB-COMMAND --name NAME --hosts FILE [flags] [-- ARGUMENTS OF THE EXPERIMENT]

  create    nothing to do: the machines are there
  install   copy this checkout to jdt-NAME in each home folder, and install it into jdt-NAME/.venv
  run       start a worker on each host, with --shard i/n; where one is running, nothing happens
  watch     one look: what runs, how it ended, the last lines of each log
  resume    start the workers that are not running
  fetch     copy the run directory here
  delete    stop the workers; the folders stay

  --name NAME      of this run: a-z, 0-9 and -
  --hosts FILE     a host a line, as ssh takes it ([user@]host); empty lines and # comments are skipped
  --out DIR        run directory: gs://BUCKET/PATH, or a path that all hosts mount (run, resume, fetch)
  --to DIR         where fetch puts it
  --extra EXTRA    extra of jdt to install: cuda13 (default), tpu, or '' for CPUs
  --prepare CMD    shell command that install runs on each host at the end, e.g. to copy data there
  --module MODULE  experiment; default experiments.class_influence
  --dry-run        print the commands and run none

Keys come from your ssh agent or configuration. Example:

  tpu_setup/ssh_hosts.sh install --name demo --hosts hosts.txt
  tpu_setup/ssh_hosts.sh run --name demo --hosts hosts.txt --out /shared/runs/demo -- --num-models 400
END
}

FLAG+=([name]="" [hosts]="" [out]="" [to]="" [extra]=cuda13 [prepare]="")
HOSTS=()
SSH=(ssh -n -o BatchMode=yes)
FAILED=()

read_hosts() {
  local line
  need hosts
  [[ -r ${FLAG[hosts]} ]] || die "--hosts is '${FLAG[hosts]}', which cannot be read: pass a file with a host a line."
  while read -r line || [[ -n $line ]]; do
    line=${line%%#*}
    line=${line%"${line##*[![:space:]]}"}
    [[ $line != -* ]] || die "--hosts names '$line', which ssh would take for a flag."
    [[ -z $line ]] || HOSTS+=("$line")
  done <"${FLAG[hosts]}"
  ((${#HOSTS[@]})) || die "--hosts is '${FLAG[hosts]}', which names no host: write a host a line."
}

# Run a command for one host; a host that fails is named at the end and does not keep the others from their turn.
on() {
  local host=$1
  shift
  run "$@" || FAILED+=("$host")
}

report() {
  if ((${#FAILED[@]})); then
    echo "${0##*/}: $COMMAND failed on ${FAILED[*]}: the same command again tries these as well." >&2
    exit 1
  fi
}

create_() { say "nothing to create: the machines are there."; }

install_() {
  local host
  read_hosts
  pack
  for host in "${HOSTS[@]}"; do
    on "$host" scp -o BatchMode=yes "$ARCHIVE" "$host:$(folder).tar.gz"
    [[ " ${FAILED[*]} " == *" $host "* ]] || on "$host" "${SSH[@]}" "$host" "$(unpack_command)"
  done
  report
}

run_() {
  local i
  read_hosts
  ((${#HOSTS[@]} == 1)) || need_common_out
  for i in "${!HOSTS[@]}"; do
    on "${HOSTS[i]}" "${SSH[@]}" "${HOSTS[i]}" "$(start_command --shard "$i/${#HOSTS[@]}")"
  done
  report
}

resume_() { run_; }

everywhere() {
  local host
  read_hosts
  for host in "${HOSTS[@]}"; do on "$host" "${SSH[@]}" "$host" "$(host_command "$1")"; done
  report
}

watch_() { everywhere status; }

fetch_() {
  if [[ ${FLAG[out]} == gs://* ]]; then
    fetch_bucket
    return
  fi
  read_hosts
  local path=${FLAG[out]}
  [[ $path == /* ]] || path=$(folder)/$path
  run mkdir -p "${FLAG[to]}"
  run rsync --archive --rsh "ssh -o BatchMode=yes" "${HOSTS[0]}:$path/" "${FLAG[to]}"
}

delete_() { everywhere stop; }

dispatch "$@"
