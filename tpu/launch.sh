#!/usr/bin/env bash
# Training on Cloud TPU from one command: machines, installation, start, watching, end. Run book: tpu/README.md.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "launch: needs bash 4.4 or newer, this is $BASH_VERSION (on macOS: brew install bash)" >&2
    exit 2
fi
TPU=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # of this checkout; lib/ reads it
ROOT=$(dirname "$TPU")
exec 3>&1 # where --dry-run prints, wherever a function's own output goes

usage() {
    cat <<'TEXT'
Usage: tpu/launch.sh SUBCOMMAND NAME [options] [-- [VERB] CONFIG.py a.b=c ...]

  create    ask for the machines (nothing if they are there or asked for)
  wait      until they are ready
  setup     pinned versions on every worker, all chips seen, a sum over them right
  run       start training on every worker; it outlives this shell
  logs      the last lines of every worker, or where all of them are
  status    machines, workers, steps
  stop      training saves a checkpoint and ends; the machines stay
  delete    training ends, the machines go
  babysit   all of it, again after every pre-emption or failure, until the run is finished

Machines                                        (remembered under NAME; give them once)
  --type T         v4-8 v5litepod-16 v5p-128 v6e-64 tpu7x-8 ... ; local-2: processes on this machine
  --on WHAT        queued (default), vm, xpk, vertex; local follows from the type
  --zone Z         such as us-east5-b; --project P (default: gcloud's own)
  --spot | --on-demand | --reserved             (default: --on-demand)
  --slices N       multislice (default: 1)
  --runtime V      image of the machines (default: by generation)
  --network N, --subnetwork N, --service-account S
  --max-hours H    machines are deleted after so many hours, whatever happens (default: 24)
  --wait-hours H   a request that is not met by then expires (default: 24)
  xpk:             --cluster C --image URI, with --reserved also --reservation R; vertex: --region R --image URI
Training                                        (VERB is train; or distill preprocess convert generate evaluate)
  --workdir URI    gs://BUCKET/FOLDER: checkpoints, logs, health.json (local-N: a folder)
  --run-id ID      (default: NAME) the same in every life of the run
Watching
  --tries N        failures in a row without a new step before babysit gives up (default: 5)
  --hung-minutes M a run without a new step for so long counts as failed (default: 60)
  --keep           leave the machines when the run is finished (default: delete them)
  --lines N        of `logs` (default: 40)
  --dry-run        print every command, send nothing, write nothing

Exit codes: 0 done, 2 bad input, 1 failure, 130 interrupted.
TEXT
}

for part in common types options remote workers babysit; do
    # shellcheck source=/dev/null
    . "$TPU/lib/$part.sh"
done
trap 'interrupted' INT
trap 'rm -rf "$SCRATCH"' EXIT

main() {
    case ${1:-} in
        create | wait | setup | run | logs | status | stop | delete | babysit) ;;
        -h | --help | help)
            usage
            exit 0
            ;;
        '') refuse "no subcommand; one of create wait setup run logs status stop delete babysit (--help)" ;;
        *) refuse "no subcommand '$1'; one of create wait setup run logs status stop delete babysit (--help)" ;;
    esac
    local subcommand=$1
    shift
    options "$@"
    # shellcheck source=/dev/null
    . "$TPU/lib/on_$ON.sh"
    "do_$subcommand"
}

main "$@"
