#!/usr/bin/env bash
# A run on Cloud TPU VMs (queued resources): slices of one host each that work independently, or one slice of several.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Usage: tpu_vm.sh SUB-COMMAND --name NAME --zone ZONE --type TYPE [flags] [-- ARGUMENTS OF THE EXPERIMENT]

  create    queue the slices NAME-0, NAME-1, ... that do not exist yet; returns at once
  install   wait until the slices are there, copy this checkout to all their hosts and install it
  run       start a worker on each host; where one is running, nothing happens
  watch     one look: the state of each slice, what runs there, the last lines of each log
  resume    delete and queue again what was pre-empted, install there, and start what does not run
  fetch     copy the run directory here
  delete    delete the slices, and with them everything that is not in a bucket

  --name NAME             of this run: a-z, 0-9 and -
  --zone ZONE             e.g. europe-west4-b
  --type TYPE             accelerator type, e.g. v6e-8, v5litepod-8, v4-8 (one host) or v6e-32 (several)
  --slices N              slices, each with a share of its own (default 1); one if it has several hosts
  --spot                  spot capacity: cheap, and pre-empted at any time
  --runtime VERSION       TPU software; by default the one for JAX on this type
  --project PROJECT       default: gcloud's
  --service-account MAIL  whose rights the hosts have (to the bucket); default: the project's
  --out DIR               run directory: gs://BUCKET/PATH, or a path that the hosts mount (run, resume, fetch)
  --to DIR                where fetch puts it
  --extra EXTRA           extra of jdt to install; default tpu
  --prepare CMD           shell command that install runs on each host at the end, e.g. to copy data there
  --module MODULE         experiment; default experiments.class_influence
  --dry-run               print the commands and run none

Credentials are gcloud's. For a slice of several hosts, `ssh-add ~/.ssh/google_compute_engine` first. Example:

  for step in create install run; do
    tpu_setup/tpu_vm.sh $step --name demo --zone europe-west4-a --type v6e-8 --slices 4 --spot \
        --out gs://my-bucket/demo -- --num-models 4000
  done
END
}

FLAG+=([name]="" [zone]="" [type]="" [slices]=1 [runtime]="" [project]="" [service-account]="" [out]="" [to]=""
  [extra]=tpu [prepare]="")
SWITCHES+=(spot)
STATE=""

# Flags of every call of gcloud.
WHERE=()

setup() {
  need zone type
  need_number slices
  [[ ${FLAG[type]} =~ ^v[0-9]+[a-z]*-[0-9]+$ ]] ||
    die "--type is '${FLAG[type]}', but must be like v6e-8 or v5litepod-16. (For TPU7x and later there is gke.sh.)"
  runtime >/dev/null # Refuses a type that it does not know.
  if several_hosts && ((FLAG[slices] > 1)); then
    die "--slices is ${FLAG[slices]}, but a ${FLAG[type]} has several hosts: pass one such slice, or slices of one" \
      "host (at most 8 in --type), which need not wait for each other."
  fi
  WHERE=("--zone=${FLAG[zone]}")
  [[ -z ${FLAG[project]} ]] || WHERE+=("--project=${FLAG[project]}")
}

# In every generation the number after the hyphen (of cores or chips) is at most 8 where one host has them all.
several_hosts() { ((${FLAG[type]##*-} > 8)); }

runtime() {
  [[ -z ${FLAG[runtime]} ]] || { echo "${FLAG[runtime]}" && return; }
  case ${FLAG[type]} in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) die "--type is '${FLAG[type]}', whose TPU software is not known here: pass --runtime." ;;
  esac
}

slices() {
  local i
  for ((i = 0; i < FLAG[slices]; i++)); do echo "${FLAG[name]}-$i"; done
}

# Put what a slice is into STATE: gone, waiting, ready, leaving, or lost (pre-empted or failed: only delete helps).
# The second argument is what a dry run takes for granted. Lists, since `describe` fails alike without rights.
look() {
  local slice=$1 request=gone node=READY assumed=$2
  case $assumed in ready) request=ACTIVE ;; lost) request=SUSPENDED ;; gone) request="" ;; esac
  ask "$request" gcloud compute tpus queued-resources list "${WHERE[@]}" \
    "--filter=name~/queuedResources/$slice\$" "--format=value(state.state)"
  request=$REPLY
  if [[ $request == ACTIVE ]]; then
    ask READY gcloud compute tpus tpu-vm list "${WHERE[@]}" "--filter=name~/nodes/$slice\$" "--format=value(state)"
    node=$REPLY
  fi
  case $request/$node in
    /*) STATE=gone ;;
    ACTIVE/READY) STATE=ready ;;
    ACTIVE/CREATING | ACTIVE/STARTING | ACTIVE/RESTARTING | ACTIVE/REPAIRING) STATE=waiting ;;
    ACTIVE/*) STATE=lost ;;
    SUSPENDED/* | FAILED/*) STATE=lost ;;
    SUSPENDING/* | DELETING/*) STATE=leaving ;;
    *) STATE=waiting ;;
  esac
  dry || say "$slice: ${request:-does not exist}$([[ $request != ACTIVE ]] || echo ", machine ${node:-gone}")"
}

# Look until the slice is in another state than the given one.
wait_while() {
  look "$2" "$3"
  while [[ $STATE == "$1" ]]; do
    sleep 30
    look "$2" "$3"
  done
}

make() {
  local extra=()
  [[ -z ${FLAG[spot]:-} ]] || extra+=(--spot)
  [[ -z ${FLAG[service-account]} ]] || extra+=("--service-account=${FLAG[service-account]}")
  run gcloud compute tpus queued-resources create "$1" "${WHERE[@]}" "--node-id=$1" \
    "--accelerator-type=${FLAG[type]}" "--runtime-version=$(runtime)" "${extra[@]}"
}

remove() { run gcloud compute tpus queued-resources delete "$1" "${WHERE[@]}" --force --quiet; }

on() { run gcloud compute tpus tpu-vm ssh "$1" "${WHERE[@]}" --worker=all "--command=$2"; }

create_() {
  local slice
  setup
  for slice in $(slices); do
    look "$slice" gone
    case $STATE in
      gone) make "$slice" ;;
      lost) say "$slice was pre-empted or failed: resume makes it again." ;;
      *) say "$slice is there already." ;;
    esac
  done
}

install_() {
  local slice
  setup
  pack
  for slice in $(slices); do
    wait_while waiting "$slice" ready
    [[ $STATE == ready ]] || die "$slice is ${STATE/lost/pre-empted or failed}: create or resume makes it."
    install_slice "$slice"
  done
}

install_slice() {
  run gcloud compute tpus tpu-vm scp "$ARCHIVE" "$1:$(folder).tar.gz" "${WHERE[@]}" --worker=all
  on "$1" "$(unpack_command)"
}

# Hosts of one slice learn their number from each other; slices of one host are told theirs.
start() {
  if several_hosts; then
    on "$1" "$(start_command --distributed on)"
  else
    on "$1" "$(start_command --shard "${1##*-}/${FLAG[slices]}")"
  fi
}

run_() {
  local slice
  setup
  need_common_out # Also of one host: the disk of a slice goes when it is pre-empted.
  for slice in $(slices); do start "$slice"; done
}

watch_() {
  local slice
  setup
  for slice in $(slices); do
    look "$slice" ready
    [[ $STATE != ready ]] || on "$slice" "$(host_command status)" || say "$slice: nothing is installed, or no answer"
  done
}

# New slices are all queued before the first is waited for.
resume_() {
  local slice fresh=()
  setup
  need_common_out
  for slice in $(slices); do
    wait_while leaving "$slice" lost
    if [[ $STATE == lost ]]; then
      remove "$slice"
      STATE=gone
    fi
    if [[ $STATE == gone ]]; then make "$slice"; fi
    if [[ $STATE != ready ]] || ! on "$slice" "$(host_command installed)"; then
      fresh+=("$slice") # Also one that came up after an earlier call was broken off.
    else
      # The TPUs of a slice start together: a host that ended can only begin again along with the others.
      ! several_hosts || on "$slice" "$(host_command stop)"
      start "$slice"
    fi
  done
  ((${#fresh[@]})) || return 0
  pack
  for slice in "${fresh[@]}"; do
    wait_while waiting "$slice" ready
    [[ $STATE == ready ]] || die "$slice is ${STATE/lost/pre-empted or failed} again: the same command tries once more."
    install_slice "$slice"
    start "$slice"
  done
}

fetch_() { fetch_bucket; }

delete_() {
  local slice
  setup
  for slice in $(slices); do
    look "$slice" ready
    case $STATE in
      gone | leaving) say "$slice is gone, or on its way." ;;
      *) remove "$slice" ;;
    esac
  done
}

dispatch "$@"
