# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that calls gcloud for machines of Cloud TPU: their workers, the source, files in gs://.

need_machines() {
    need gcloud "https://cloud.google.com/sdk/docs/install, then: gcloud auth login"
}

tpus() { # GROUP VERB NAME OPTIONS
    patiently gcloud compute tpus "$@" --quiet --zone="$ZONE" ${PROJECT:+--project="$PROJECT"} </dev/null
}

# What queued resources and VMs are asked for alike -> COMMON. guard.sh deletes the machines when --max-hours
# are over, even if this computer is off by then.
common_words() {
    COMMON=(
        --metadata="omnihuman-name=$NAME,omnihuman-on=$ON,omnihuman-zone=$ZONE,omnihuman-seconds=$(seconds_left)"
        --metadata-from-file=startup-script="$TPU/guard.sh"
        --scopes=cloud-platform
    )
    [ -z "$NETWORK" ] || COMMON+=(--network="$NETWORK")
    [ -z "$SUBNETWORK" ] || COMMON+=(--subnetwork="$SUBNETWORK")
    [ -z "$SERVICE_ACCOUNT" ] || COMMON+=(--service-account="$SERVICE_ACCOUNT")
}

nodes() {
    local slice
    if ((SLICES == 1)); then
        echo "$NAME"
    else
        for ((slice = 0; slice < SLICES; slice++)); do echo "$NAME-$slice"; done
    fi
}

# VERB ARGUMENTS of worker.sh on every worker of every slice at once; what they print is printed.
on_workers() {
    local command node code=0 jobs=()
    command=$(quoted bash "omnihuman/$NAME/source/tpu/worker.sh" "$@")
    if [ "$1" = setup ]; then
        # The first word on new machines: unpack what send_source has sent.
        command="$(quoted mkdir -p "omnihuman/$NAME/source") && $(quoted gcloud storage cat "$2") | $(
            quoted tar -x -C "omnihuman/$NAME/source") && $command"
    fi
    for node in $(nodes); do
        if dry; then
            tpus tpu-vm ssh "$node" --worker=all --command="$command"
            continue
        fi
        tpus tpu-vm ssh "$node" --worker=all --command="$command" >"$SCRATCH/from-$node" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || code=$?
    done
    dry || for node in $(nodes); do cat "$SCRATCH/from-$node"; done
    return "$code"
}

# The files of this checkout as they are now (those that git knows) -> SOURCE, beside the run they belong to.
send_source() {
    local archive=$SCRATCH/source.tar # most of it are weights, which do not shrink
    SOURCE=$WORKDIR/launch/source.tar
    if ! dry; then
        git -C "$ROOT" ls-files -z | tar -C "$ROOT" --null -T - --ignore-failed-read -c -f "$archive" 2>/dev/null
    fi
    patiently gcloud storage cp "$archive" "$SOURCE"
}

fetch() { # URI -> its text
    patiently gcloud storage cat "$1"
}
