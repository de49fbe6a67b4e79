#!/usr/bin/env bash
# A run on a SLURM cluster with a shared file system: one worker a task of a job array. For the login node.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Usage: slurm.sh SUB-COMMAND --name NAME [flags] [-- ARGUMENTS OF THE EXPERIMENT]

  create    nothing to do: sbatch asks for machines
  install   install this checkout into its .venv
  run       submit the array; where its jobs are queued or run, nothing happens
  watch     one look: the queue, the last lines of each log
  resume    submit the array again once none of its jobs is queued or runs (SLURM itself requeues what is pre-empted)
  fetch     copy the run directory
  delete    cancel the jobs

  --name NAME       of this run and its jobs: a-z, 0-9 and -
  --out DIR         run directory: a path on the shared file system, or gs://BUCKET/PATH (run, resume, fetch)
  --to DIR          where fetch puts it
  --workers N       tasks of the array (default 1)
  --options TEXT    further options of sbatch, separated by spaces, e.g. "--partition=gpu --gpus=1 --time=04:00:00"
  --extra EXTRA     extra of jdt to install: cuda13 (default), tpu, or '' for CPUs
  --prepare CMD     shell command that install runs at the end
  --module MODULE   experiment; default experiments.class_influence
  --dry-run         print the commands and run none

Example:

  tpu_setup/slurm.sh install --name demo
  tpu_setup/slurm.sh run --name demo --workers 8 --options "--partition=gpu --gpus=1 --time=04:00:00" \
      --out /shared/runs/demo -- --num-models 4000
END
}

FLAG+=([name]="" [out]="" [to]="" [workers]=1 [options]="" [extra]=cuda13 [prepare]="")

create_() { say "nothing to create: sbatch asks for machines."; }

install_() { run bash "$ROOT/tpu_setup/on_host.sh" install "${FLAG[extra]}" "${FLAG[prepare]}"; }

# Jobs of this name that are queued or run, in REPLY.
look() { ask "$1" squeue --me "--name=${FLAG[name]}" --noheader "--format=%i %T"; }

submit() {
  local options=()
  need_number workers
  read -ra options <<<"${FLAG[options]}"
  run mkdir -p "$ROOT/logs"
  # From the checkout, where experiments are importable; a relative run directory is one of the caller's folder.
  [[ ${FLAG[out]} == gs://* || ${FLAG[out]} == /* ]] || FLAG[out]=$PWD/${FLAG[out]}
  run sbatch "--job-name=${FLAG[name]}" "--array=0-$((FLAG[workers] - 1))" "--chdir=$ROOT" \
    "--output=$ROOT/logs/${FLAG[name]}.%a.log" "${options[@]}" "$ROOT/tpu_setup/job.sbatch" "$ROOT/.venv/bin/python" \
    "${FLAG[module]}" --out "${FLAG[out]}" "${ARGS[@]}"
}

run_() {
  look ""
  if [[ -n $REPLY ]]; then
    say "jobs of this name are queued or run already: ${REPLY//$'\n'/, }"
  else
    submit
  fi
}

resume_() { run_; }

watch_() {
  local log
  run squeue --me "--name=${FLAG[name]}"
  for log in "$ROOT/logs/${FLAG[name]}".*.log; do
    [[ ! -e $log ]] || run tail -n 5 "$log"
  done
}

fetch_() {
  if [[ ${FLAG[out]} == gs://* ]]; then
    fetch_bucket
  else
    run mkdir -p "${FLAG[to]}"
    run cp -R "${FLAG[out]}/." "${FLAG[to]}"
  fi
}

delete_() {
  look assumed
  if [[ -z $REPLY ]]; then
    say "no job of this name is queued or runs."
  else
    run scancel --me "--name=${FLAG[name]}"
  fi
}

dispatch "$@"
