# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that knows xpk, Google's tool for TPUs on GKE. GKE queues, restarts and keeps the logs, so
# wait and babysit are its business; the image is yours: tpu/README.md says how it is built.

need_cluster() {
    need xpk "pip install xpk"
    [ -n "$CLUSTER" ] || refuse "no --cluster; such as --cluster my-cluster"
}

xpk_() { # WORDS
    patiently xpk "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"} || explained "$NAME: xpk failed"
}

capacity() {
    case $CAPACITY in
        spot) echo --spot ;;
        reserved) echo --reservation="${RESERVATION:?}" ;;
        *) echo --on-demand ;;
    esac
}

do_create() {
    need_cluster
    [ "$CAPACITY" != reserved ] || [ -n "$RESERVATION" ] || refuse "--reserved on xpk needs --reservation NAME"
    remember
    xpk_ cluster create --cluster="$CLUSTER" --tpu-type="$TYPE" --num-slices="$SLICES" "$(capacity)"
}

do_run() {
    need_cluster
    need_workdir
    need_arguments
    [ -n "$IMAGE" ] || refuse "no --image; such as --image us-docker.pkg.dev/PROJECT/REPOSITORY/omnihuman:1"
    remember
    local command
    command=$(quoted bash tpu/worker.sh here "$RUN_ID" "$WORKDIR" "$GENERATION" -- "${ARGUMENTS[@]}")
    xpk_ workload create --workload="$NAME" --cluster="$CLUSTER" --tpu-type="$TYPE" --num-slices="$SLICES" \
        --docker-image="$IMAGE" --max-restarts="$TRIES" --restart-on-user-code-failure --command="$command"
}

do_logs() {
    need_cluster
    need gcloud "https://cloud.google.com/sdk/docs/install"
    patiently gcloud logging read \
        "resource.type=\"k8s_container\" AND labels.\"k8s-pod/jobset_sigs_k8s_io/jobset-name\"=\"$NAME\"" \
        --limit="$LINES" '--format=value(textPayload)' ${PROJECT:+--project="$PROJECT"} ||
        explained "$NAME: no logs"
}

do_status() {
    need_cluster
    xpk_ workload list --cluster="$CLUSTER" --filter-by-job="^$NAME\$"
}

do_stop() {
    need_cluster
    xpk_ workload delete --workload="$NAME" --cluster="$CLUSTER" --force
}

do_delete() {
    need_cluster
    xpk_ cluster delete --cluster="$CLUSTER" --force
    forget
}

do_wait() { refuse "wait: GKE queues by itself; tpu/launch.sh status $NAME shows where it is"; }
do_setup() { refuse "setup: on GKE the image holds what is installed; tpu/README.md says how it is built"; }
do_babysit() { refuse "babysit: GKE restarts by itself; run with --tries N restarts at most N times"; }
