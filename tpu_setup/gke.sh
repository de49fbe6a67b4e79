#!/usr/bin/env bash
# A run on Google Kubernetes Engine (any Kubernetes with JobSet, for GPUs): one worker a pod.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Usage: gke.sh SUB-COMMAND --name NAME [flags] [-- ARGUMENTS OF THE EXPERIMENT]

  create    make a node pool for the workers (Autopilot clusters make their nodes themselves: leave it out)
  install   build the container image from this checkout and push it
  run       apply the JobSet; where it exists already, nothing happens
  watch     one look: the JobSet, its pods, the last lines of each
  resume    replace the JobSet if it has ended; while it runs, Kubernetes itself replaces pods that are lost
  fetch     copy the run directory here
  delete    delete the JobSet, and with --cluster the node pool

  --name NAME           of this run: a-z, 0-9 and -
  --out gs://B/PATH     run directory (run, resume, fetch)
  --to DIR              where fetch puts it
  --image IMAGE         e.g. europe-west4-docker.pkg.dev/PROJECT/REPOSITORY/jdt:demo (install, run, resume)
  --workers N           pods (default 1)
  --tpu TYPE            TPUs, e.g. tpu-v6e-slice, with --topology and --chips; or
  --gpu TYPE            GPUs, e.g. nvidia-l4, with --chips
  --topology T          of a slice, e.g. 2x4
  --chips N             TPU or GPU chips of a pod
  --one-slice           the workers are the hosts of one TPU slice; otherwise each has a slice of one host
  --spot                spot nodes
  --service-account S   Kubernetes service account of the pods, with rights to the bucket (default: default)
  --namespace NS        default: that of kubectl's context
  --cluster C, --location L, --machine-type M   for the node pool, e.g. demo, europe-west4-a, ct6e-standard-8t
  --module MODULE       experiment; default experiments.class_influence
  --dry-run             print the commands and the manifest, and run nothing

Credentials are those of kubectl, docker and gcloud. The cluster needs the JobSet controller. Example:

  for step in create install run; do
    tpu_setup/gke.sh $step --name demo --cluster demo --location europe-west4-a --machine-type ct6e-standard-8t \
        --tpu tpu-v6e-slice --topology 2x4 --chips 8 --workers 4 --spot \
        --image europe-west4-docker.pkg.dev/my-project/my-images/jdt:demo --out gs://my-bucket/demo -- --num-models 4000
  done
END
}

FLAG+=([name]="" [out]="" [to]="" [image]="" [workers]=1 [tpu]="" [gpu]="" [topology]="" [chips]=""
  [service-account]=default [namespace]="" [cluster]="" [location]="" [machine-type]="")
SWITCHES+=(spot one-slice)
KUBECTL=(kubectl)

setup() {
  need_number workers
  [[ -z ${FLAG[namespace]} ]] || KUBECTL+=("--namespace=${FLAG[namespace]}")
}

# What the pods compute on.
hardware() {
  need chips
  need_number chips
  [[ -z ${FLAG[tpu]} || -z ${FLAG[gpu]} ]] || die "--tpu and --gpu are both there: pass one of them."
  [[ -n ${FLAG[tpu]}${FLAG[gpu]} ]] || die "--tpu and --gpu are both missing: pass one of them."
  [[ -z ${FLAG[tpu]} ]] || need topology
  [[ -z ${FLAG[one-slice]:-} || -n ${FLAG[tpu]} ]] || die "--one-slice is about TPUs: leave it out with --gpu."
}

# A string as JSON, which is YAML as well.
json() {
  local text=${1//\\/"\\\\"}
  text=${text//\"/"\\\""}
  text=${text//$'\n'/"\\n"}
  printf '"%s"' "${text//$'\t'/"\\t"}"
}

json_list() {
  local word line=""
  for word in "$@"; do line+="${line:+, }$(json "$word")"; done
  echo "[$line]"
}

# The JobSet with every word filled in.
manifest() {
  local text nodes tolerations="" limits command retries preempted annotations="{}"
  local arguments=("${FLAG[module]}" --out "${FLAG[out]}" "${ARGS[@]}")
  if [[ -n ${FLAG[tpu]} ]]; then
    nodes="cloud.google.com/gke-tpu-accelerator: $(json "${FLAG[tpu]}"), "
    nodes+="cloud.google.com/gke-tpu-topology: $(json "${FLAG[topology]}")"
    limits="google.com/tpu: ${FLAG[chips]}"
  else
    nodes="cloud.google.com/gke-accelerator: $(json "${FLAG[gpu]}")"
    limits="nvidia.com/gpu: ${FLAG[chips]}"
    tolerations='{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}'
  fi
  if [[ -n ${FLAG[spot]:-} ]]; then
    nodes+=', cloud.google.com/gke-spot: "true"'
    tolerations+="${tolerations:+, }"
    tolerations+='{key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}'
  fi
  if [[ -n ${FLAG[one-slice]:-} ]]; then
    # The TPUs of a slice start together: when one pod is lost, all begin again.
    annotations='{alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool}'
    command='exec python -m "$@" --distributed on'
    retries="backoffLimit: 0"
    preempted=Count
  else
    command="exec python -m \"\$@\" --shard \"\$JOB_COMPLETION_INDEX/${FLAG[workers]}\""
    retries="backoffLimitPerIndex: 10"
    preempted=Ignore
  fi
  arguments=("${arguments[@]//\$/"\$\$"}") # Kubernetes replaces $(NAME), and reads $$ as $.
  text=$(cat "$ROOT/tpu_setup/jobset.yaml")
  text=${text//@NAME@/"${FLAG[name]}"}
  text=${text//@ANNOTATIONS@/"$annotations"}
  text=${text//@WORKERS@/"${FLAG[workers]}"}
  text=${text//@RETRIES@/"$retries"}
  text=${text//@WHEN_PREEMPTED@/"$preempted"}
  text=${text//@SERVICE_ACCOUNT@/"$(json "${FLAG[service-account]}")"}
  text=${text//@NODES@/"{$nodes}"}
  text=${text//@TOLERATIONS@/"[$tolerations]"}
  text=${text//@IMAGE@/"$(json "${FLAG[image]}")"}
  text=${text//@COMMAND@/"$(json_list bash -c "$command" jdt)"}
  text=${text//@LIMITS@/"{$limits}"}
  printf '%s\n' "${text//@ARGUMENTS@/"$(json_list "${arguments[@]}")"}" # Last: arguments may hold such words.
}

apply() {
  local file=$ROOT/build/${FLAG[name]}.yaml
  run mkdir -p "$ROOT/build"
  if dry; then
    echo "cat >$(quoted "$file") <<'END'"
    manifest
    echo END
  else
    manifest >"$file"
  fi
  run "${KUBECTL[@]}" apply "--filename=$file"
}

# Put into STATE what the JobSet is: gone, running or ended. The argument is what a dry run takes for granted.
look() {
  ask "$1" "${KUBECTL[@]}" get jobset "${FLAG[name]}" --ignore-not-found \
    "--output=jsonpath={.metadata.name} {.status.terminalState}"
  case $REPLY in
    "") STATE=gone ;;
    *" ") STATE=running ;;
    *) STATE=ended ;;
  esac
}

# The node pool's name, if it exists, in REPLY.
look_for_pool() {
  need location
  ask "$1" gcloud container node-pools list "--cluster=${FLAG[cluster]}" "--location=${FLAG[location]}" \
    "--filter=name=${FLAG[name]}" "--format=value(name)"
}

create_() {
  local extra=()
  setup
  hardware
  need cluster location machine-type
  look_for_pool ""
  if [[ -n $REPLY ]]; then
    say "node pool $REPLY is there already."
    return
  fi
  [[ -z ${FLAG[one-slice]:-} ]] || extra+=("--tpu-topology=${FLAG[topology]}")
  [[ -z ${FLAG[gpu]} ]] || extra+=("--accelerator=type=${FLAG[gpu]},count=${FLAG[chips]}")
  [[ -z ${FLAG[spot]:-} ]] || extra+=(--spot)
  run gcloud container node-pools create "${FLAG[name]}" "--cluster=${FLAG[cluster]}" "--location=${FLAG[location]}" \
    "--machine-type=${FLAG[machine-type]}" "--num-nodes=${FLAG[workers]}" "${extra[@]}"
}

install_() {
  setup
  need image
  local variant=tpu
  [[ -z ${FLAG[gpu]} ]] || variant=cuda13
  run docker build --file "$ROOT/tpu_setup/Dockerfile" --build-arg "EXTRA=$variant" --tag "${FLAG[image]}" "$ROOT"
  run docker push "${FLAG[image]}"
}

check_run() {
  setup
  hardware
  need image
  [[ ${FLAG[out]} == gs://* ]] || die "--out is '${FLAG[out]}', but pods share no disk: pass gs://BUCKET/PATH."
}

run_() {
  check_run
  look ""
  case $STATE in
    gone) apply ;;
    running) say "JobSet ${FLAG[name]} is running already." ;;
    ended) say "JobSet ${FLAG[name]} has ended: resume replaces it." ;;
  esac
}

watch_() {
  local pods=--selector=jobset.sigs.k8s.io/jobset-name=${FLAG[name]}
  setup
  run "${KUBECTL[@]}" get jobset "${FLAG[name]}" --ignore-not-found
  run "${KUBECTL[@]}" get pods "$pods" --output=wide
  run "${KUBECTL[@]}" logs "$pods" --prefix --tail=5 --max-log-requests=1000 || say "not every pod has a log yet."
}

resume_() {
  check_run
  look "${FLAG[name]} Failed"
  case $STATE in
    running) say "JobSet ${FLAG[name]} is running: Kubernetes itself replaces pods that are lost." ;;
    gone) apply ;;
    ended)
      run "${KUBECTL[@]}" delete jobset "${FLAG[name]}" --ignore-not-found --cascade=foreground
      apply
      ;;
  esac
}

fetch_() { fetch_bucket; }

delete_() {
  setup
  run "${KUBECTL[@]}" delete jobset "${FLAG[name]}" --ignore-not-found
  if [[ -z ${FLAG[cluster]} ]]; then
    say "node pools stay, and cost: with --cluster and --location their deletion is part of this."
    return
  fi
  look_for_pool "${FLAG[name]}"
  if [[ -z $REPLY ]]; then
    say "node pool ${FLAG[name]} is gone."
  else
    run gcloud container node-pools delete "${FLAG[name]}" "--cluster=${FLAG[cluster]}" \
      "--location=${FLAG[location]}" --quiet
  fi
}

dispatch "$@"
