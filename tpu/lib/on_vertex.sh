# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that knows custom jobs of Vertex AI. It brings machines up, runs, restarts and deletes them.

need_vertex() {
    need gcloud "https://cloud.google.com/sdk/docs/install, then: gcloud auth login"
    [ -n "$REGION" ] || refuse "no --region; such as --region us-central1"
}

jobs_() { # VERB WORDS
    patiently gcloud ai custom-jobs "$@" --region="$REGION" ${PROJECT:+--project="$PROJECT"}
}

# The number of the newest job of this name.
job() {
    if dry; then
        jobs_ list --filter="displayName=$NAME" '--sort-by=~createTime' --limit=1 '--format=value(name)'
        echo JOB
        return
    fi
    local id
    id=$(jobs_ list --filter="displayName=$NAME" '--sort-by=~createTime' --limit=1 '--format=value(name)') ||
        explained "$NAME: no list of jobs"
    [ -n "$id" ] || fail "there is no job $NAME in $REGION; tpu/launch.sh run $NAME starts one"
    echo "${id##*/}"
}

machine() { # -> machineType, tpuTopology
    case $GENERATION:$CHIPS in
        v5e:1) echo ct5lp-hightpu-1t 1x1 ;;
        v5e:4) echo ct5lp-hightpu-4t 2x2 ;;
        v5e:8) echo ct5lp-hightpu-8t 2x4 ;;
        v6e:1) echo ct6e-standard-1t 1x1 ;;
        v6e:4) echo ct6e-standard-4t 2x2 ;;
        v6e:8) echo ct6e-standard-8t 2x4 ;;
        v5e:* | v6e:*)
            local prefix=ct5lp-hightpu-4t
            [ "$GENERATION" = v5e ] || prefix=ct6e-standard-4t
            case $CHIPS in
                16) echo $prefix 4x4 ;;
                32) echo $prefix 4x8 ;;
                64) echo $prefix 8x8 ;;
                128) echo $prefix 8x16 ;;
                256) echo $prefix 16x16 ;;
            esac
            ;;
        *) refuse "Vertex AI trains on v5e and v6e, not $TYPE; use --on queued" ;;
    esac
}

# The job as Vertex AI reads it: JSON is YAML.
job_file() {
    local type topology word words=''
    # shellcheck disable=SC2046
    set -- $(machine)
    type=$1 topology=$2
    for word in tpu/worker.sh here "$RUN_ID" "$WORKDIR" "$GENERATION" -- "${ARGUMENTS[@]}"; do
        word=${word//\\/\\\\}
        words+="${words:+, }\"${word//\"/\\\"}\""
    done
    cat <<JSON
{"workerPoolSpecs": [{
  "machineSpec": {"machineType": "$type", "tpuTopology": "$topology"},
  "replicaCount": 1,
  "containerSpec": {"imageUri": "$IMAGE", "command": ["bash"], "args": [$words]}}],
 "scheduling": {"timeout": "$(awk -v h="$MAX_HOURS" 'BEGIN { printf "%d", h * 3600 }')s",
  "restartJobOnWorkerRestart": true$([ "$CAPACITY" != spot ] || echo ', "strategy": "SPOT"')}}
JSON
}

do_run() {
    need_vertex
    need_workdir
    need_arguments
    [ -n "$IMAGE" ] || refuse "no --image; such as --image us-docker.pkg.dev/PROJECT/REPOSITORY/omnihuman:1"
    machine >/dev/null
    remember
    job_file >"$SCRATCH/job.yaml"
    if dry; then
        printf '# %s:\n' job.yaml >&3
        sed 's/^/# /' "$SCRATCH/job.yaml" >&3
        jobs_ create --display-name="$NAME" --config=job.yaml
        return
    fi
    jobs_ create --display-name="$NAME" --config="$SCRATCH/job.yaml" || explained "$NAME was not created"
}

do_logs() { need_vertex && jobs_ stream-logs "$(job)"; }
do_status() { need_vertex && jobs_ describe "$(job)" '--format=value(state,error.message)'; }
do_stop() { need_vertex && jobs_ cancel "$(job)"; }
do_delete() { do_stop && forget; }

do_create() { refuse "create: a job of Vertex AI brings its machines; tpu/launch.sh run $NAME"; }
do_wait() { refuse "wait: Vertex AI queues by itself; tpu/launch.sh status $NAME shows where it is"; }
do_setup() { refuse "setup: on Vertex AI the image holds what is installed; tpu/README.md says how it is built"; }
do_babysit() { refuse "babysit: Vertex AI restarts by itself, for --max-hours; tpu/launch.sh status $NAME"; }
