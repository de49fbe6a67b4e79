#!/usr/bin/env bash
# What the scripts beside this file share: sourced by them, never run. A script
#   1. sources this file and defines `usage` and one function a sub-command: create_, install_, run_, watch_, ...
#   2. sets the defaults of its flags in FLAG, and lists in SWITCHES the flags that take no value,
#   3. calls `dispatch "$@"`, which fills COMMAND, FLAG and ARGS (all that stands after --) and calls the function.
# Exit codes: 2 and one line on stderr for a mistake in the call; else that of the first command that failed.

set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: bash is $BASH_VERSION, but must be 4.4 or newer: start the script with a newer bash." >&2
  exit 2
fi

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A FLAG=([module]=experiments.class_influence)
SWITCHES=(dry-run)
COMMAND=""
ARGS=()

# A mistake in the call: one line, exit code 2.
die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# A sentence for the user; a comment in a dry run, whose output is then a shell script.
say() { if dry; then echo "# $*"; else echo "$*"; fi; }

dry() { [[ -n ${FLAG[dry-run]:-} ]]; }

# The arguments as one line that any POSIX shell reads back as these arguments. (`printf %q` writes line breaks as
# $'\n', which the login shell at the other end of ssh need not know.)
quoted() {
  local word line="" break="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/"$break"}'"
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Run a command, or only print it in a dry run.
run() {
  if dry; then
    quoted "$@"
  else
    echo "+ $(quoted "$@")" >&2
    "$@"
  fi
}

# Put into REPLY what a command that changes nothing prints; in a dry run, the first argument.
ask() {
  local assumed=$1
  shift
  if dry; then
    quoted "$@"
    REPLY=$assumed
  else
    REPLY=$("$@") || exit $?
  fi
}

# need FLAG...: these flags must have values.
need() {
  local flag
  for flag in "$@"; do
    [[ -n ${FLAG[$flag]:-} ]] || die "--$flag is missing: $COMMAND needs it, see ${0##*/} --help."
  done
}

need_number() {
  [[ ${FLAG[$1]} =~ ^[1-9][0-9]{0,4}$ ]] || die "--$1 is '${FLAG[$1]}', but must be a whole number from 1 to 99999."
}

# The name becomes part of resource names, paths and filters.
need_name() {
  need name
  [[ ${FLAG[name]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "--name is '${FLAG[name]}', but must be at most 40 of a-z, 0-9 and -, begin with a letter and not end in -."
}

# What only the scripts pass to the experiment must not be among the user's arguments for it.
need_out() {
  local word
  need out
  for word in "${ARGS[@]}"; do
    case $word in
      --out | --out=*) die "--out stands after --: give it to ${0##*/} itself, before --." ;;
      --shard | --shard=* | --distributed | --distributed=*)
        die "${word%%=*} stands after --, but ${0##*/} shares the work itself: leave it out."
        ;;
    esac
  done
}

# Hosts without a common disk can only meet in a bucket, or under an absolute path that all of them mount.
need_common_out() {
  [[ ${FLAG[out]} == gs://* || ${FLAG[out]} == /* ]] ||
    die "--out is '${FLAG[out]}', a folder of each host's own: pass gs://BUCKET/PATH, or the absolute path of a" \
      "folder that all hosts mount."
}

# Read the command line; see the top of the file.
parse() {
  local name switch takes_value
  case ${1:-} in
    create | install | run | watch | resume | fetch | delete) COMMAND=$1 ;;
    -h | --help | help) usage && exit 0 ;;
    "") die "no sub-command: pass create, install, run, watch, resume, fetch or delete, or see --help." ;;
    *) die "'$1' is no sub-command: pass create, install, run, watch, resume, fetch or delete, or see --help." ;;
  esac
  shift
  while (($#)); do
    case $1 in
      --) shift && ARGS=("$@") && return ;;
      -h | --help) usage && exit 0 ;;
      --*) ;;
      *) die "'$1' is no flag: what the experiment is to get stands after --." ;;
    esac
    name=${1#--}
    name=${name%%=*}
    takes_value=yes
    for switch in "${SWITCHES[@]}"; do [[ $switch != "$name" ]] || takes_value=""; done
    [[ -z $takes_value || ($name =~ ^[a-z-]+$ && -n ${FLAG[$name]+known}) ]] ||
      die "--$name is no flag of ${0##*/}: see --help."
    if [[ -z $takes_value ]]; then
      [[ $1 != *=* ]] || die "--$name takes no value."
      FLAG[$name]=yes
    elif [[ $1 == *=* ]]; then
      FLAG[$name]=${1#*=}
    else
      (($# > 1)) || die "--$name needs a value."
      FLAG[$name]=$2
      shift
    fi
    shift
  done
}

dispatch() {
  parse "$@"
  need_name
  case $COMMAND in
    create) create_ ;;
    install) install_ ;;
    run)
      need_out
      run_
      ;;
    watch) watch_ ;;
    resume)
      need_out
      resume_
      ;;
    fetch)
      need_out
      need to
      fetch_
      say "check it: python -m experiments.verify --run $(quoted "${FLAG[to]}")"
      ;;
    delete) delete_ ;;
  esac
}

# What runs everywhere: the experiment, its run directory, then the given arguments, then the user's.
experiment() { quoted "${FLAG[module]}" --out "${FLAG[out]}" "$@" "${ARGS[@]}"; }

# Pack the checkout, changes included (new files once they are in git's index), as ARCHIVE.
pack() {
  local tree=HEAD
  ARCHIVE=$ROOT/build/$(folder).tar.gz
  if ! dry; then
    tree=$(git -C "$ROOT" stash create)
    tree=${tree:-HEAD}
  fi
  run mkdir -p "$ROOT/build"
  run git -C "$ROOT" archive --format=tar.gz --output "$ARCHIVE" "$tree"
}

# Commands for the shell of a host: unpack what `pack` made and was copied there, and install it; on_host.sh's verbs.
folder() { echo "jdt-${FLAG[name]}"; }
unpack_command() {
  echo "mkdir -p $(folder) && tar -xzf $(folder).tar.gz -C $(folder) &&" \
    "$(host_command install "${FLAG[extra]}" "${FLAG[prepare]}")"
}
host_command() { quoted bash "$(folder)/tpu_setup/on_host.sh" "$@"; }
start_command() { echo "$(host_command start) $(experiment "$@")"; }

# Copy a run directory here from a bucket; again: what is new.
fetch_bucket() {
  [[ ${FLAG[out]} == gs://* ]] || die "--out is '${FLAG[out]}', which the hosts mount: copy it from where that disk is."
  run mkdir -p "${FLAG[to]}"
  run gcloud storage rsync --recursive "${FLAG[out]}" "${FLAG[to]}"
}
