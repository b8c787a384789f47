# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that reads the command line and what is remembered of NAME, and checks both.

STATE=${LAUNCH_STATE:-${XDG_STATE_HOME:-$HOME/.local/state}/omnihuman_jax/launch}
# Settings that are remembered; those of the machines cannot change while they exist.
readonly MACHINES=(ON TYPE ZONE PROJECT CAPACITY SLICES RUNTIME)
readonly REMEMBERED=("${MACHINES[@]}" NETWORK SUBNETWORK SERVICE_ACCOUNT RESERVATION MAX_HOURS WAIT_HOURS
    CLUSTER IMAGE REGION WORKDIR RUN_ID HELD READY_SINCE)

ON='' TYPE='' ZONE='' PROJECT='' CAPACITY='' SLICES='' RUNTIME='' NETWORK='' SUBNETWORK=''
SERVICE_ACCOUNT='' RESERVATION='' MAX_HOURS='' WAIT_HOURS='' CLUSTER='' IMAGE='' REGION='' WORKDIR=''
RUN_ID='' HELD='' READY_SINCE=''
TRIES=5 HUNG_MINUTES=60 KEEP=no LINES=40
ARGUMENTS=() # [VERB] CONFIG.py a.b=c ...

options() {
    (($#)) && [[ $1 != -* ]] || refuse "no NAME; such as: tpu/launch.sh status my-run"
    NAME=$1
    [[ $NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
        refuse "NAME '$NAME': at most 40 of a-z, 0-9 and -, a letter first"
    shift
    local given=() word value
    while (($#)); do
        word=$1
        shift
        case $word in
            --dry-run) DRY=yes ;;
            --keep) KEEP=yes ;;
            --spot | --on-demand | --reserved)
                [ -z "$CAPACITY" ] || [ "$CAPACITY" = "${word#--}" ] ||
                    refuse "--$CAPACITY and $word; one of --spot, --on-demand, --reserved"
                CAPACITY=${word#--}
                given+=(CAPACITY)
                ;;
            --)
                ARGUMENTS=("$@")
                break
                ;;
            --*=*)
                set -- "${word%%=*}" "${word#*=}" "$@"
                ;;
            --on | --type | --zone | --project | --slices | --runtime | --network | --subnetwork | \
                --service-account | --reservation | --max-hours | --wait-hours | --cluster | --image | \
                --region | --workdir | --run-id | --tries | --hung-minutes | --lines)
                (($#)) || refuse "$word needs a value"
                value=$1
                shift
                [ -n "$value" ] || refuse "$word is empty"
                word=${word#--} word=${word//-/_} word=${word^^}
                printf -v "$word" '%s' "$value"
                given+=("$word")
                ;;
            *) refuse "unknown option '$word' (settings of training stand behind --; --help shows all)" ;;
        esac
    done
    recall "${given[@]}"
    defaults
    check
}

# What is remembered of NAME fills what was not given, and must agree with what was.
recall() {
    local name value file=$STATE/$NAME/settings
    [ -f "$file" ] || return 0
    while IFS='=' read -r name value; do
        [[ " ${REMEMBERED[*]} " == *" $name "* ]] || continue
        if [[ " $* " == *" $name "* ]]; then
            if [[ " ${MACHINES[*]} " == *" $name "* && ${!name} != "$value" ]]; then
                refuse "$NAME was made with ${name,,} $value, now it is ${!name}; delete it first," \
                    "or use another name"
            fi
            continue
        fi
        printf -v "$name" '%s' "$value"
    done <"$file"
    if ((${#ARGUMENTS[@]} == 0)) && [ -f "$STATE/$NAME/arguments" ]; then
        mapfile -d '' -t ARGUMENTS <"$STATE/$NAME/arguments"
    fi
}

defaults() {
    [ -n "$TYPE" ] || refuse "nothing is known of $NAME yet; give --type, such as --type v6e-16 or --type local-2"
    local image=$RUNTIME
    slice_of "$TYPE"
    RUNTIME=${image:-$RUNTIME}
    [[ $TYPE == local-* ]] && ON=${ON:-local}
    ON=${ON:-queued} CAPACITY=${CAPACITY:-on-demand} SLICES=${SLICES:-1}
    MAX_HOURS=${MAX_HOURS:-24} WAIT_HOURS=${WAIT_HOURS:-24} RUN_ID=${RUN_ID:-$NAME} HELD=${HELD:-0}
    REGION=${REGION:-${ZONE%-*}}
}

check() {
    local name
    case $ON in
        queued | vm | local | xpk | vertex) ;;
        *) refuse "--on $ON: one of queued, vm, xpk, vertex (local: --type local-2)" ;;
    esac
    [ "$ON" = local ] && [ "$GENERATION" != cpu ] && refuse "--on local goes with --type local-2, not $TYPE"
    [ "$ON" != local ] && [ "$GENERATION" = cpu ] && refuse "--type $TYPE goes with --on local, not --on $ON"
    for name in SLICES TRIES LINES; do
        [[ ${!name} =~ ^[1-9][0-9]{0,5}$ ]] || refuse "--${name,,} ${!name}: a whole number, 1 or more"
    done
    for name in MAX_HOURS WAIT_HOURS HUNG_MINUTES; do
        [[ ${!name} =~ ^[0-9]+(\.[0-9]+)?$ && ${!name} =~ [1-9] ]] ||
            refuse "--$(tr 'A-Z_' 'a-z-' <<<"$name") ${!name}: a number above 0, such as 12 or 0.5"
    done
    for name in ZONE PROJECT RUNTIME NETWORK SUBNETWORK CLUSTER IMAGE REGION RUN_ID; do
        [[ ${!name} =~ ^[A-Za-z0-9_.:/@-]*$ ]] ||
            refuse "--$(tr 'A-Z_' 'a-z-' <<<"$name") '${!name}': letters, digits and _ . : / @ - only"
    done
    [ "$ON" = queued ] || [ "$SLICES" = 1 ] || [ "$ON" = xpk ] ||
        refuse "--slices $SLICES: multislice needs queued resources (--on queued) or --on xpk, not --on $ON"
    [ -z "$RESERVATION" ] || [ "$ON" = xpk ] ||
        refuse "--reservation $RESERVATION: gcloud takes no name here, only xpk does; use --reserved"
    [[ $WORKDIR != *$'\n'* ]] || refuse "--workdir has a line break"
    if [ "$ON" != local ] && [ -n "$WORKDIR" ] && [[ $WORKDIR != gs://?*/?* ]]; then
        refuse "--workdir $WORKDIR: the machines share no disk; use gs://BUCKET/FOLDER"
    fi
    if [ "$ON" = local ] && [ -n "$WORKDIR" ] && [[ $WORKDIR != /* && $WORKDIR != gs://* ]]; then
        WORKDIR=$PWD/$WORKDIR
    fi
    WORKDIR=${WORKDIR%/}
    [ "$ON" = local ] || [ "$ON" = vertex ] || [ -n "$ZONE" ] ||
        refuse "no --zone; such as --zone us-east5-b (gcloud compute tpus locations list shows them)"
}

need_workdir() {
    [ -n "$WORKDIR" ] || refuse "no --workdir; such as --workdir gs://my-bucket/runs/$NAME"
}
need_arguments() {
    ((${#ARGUMENTS[@]})) || refuse "no config; such as: ... -- configs/omni_1_3b.py task.data=gs://BUCKET/records"
    local word
    case ${ARGUMENTS[0]} in
        *[!a-z]*) ;; # a file, for train
        train | distill | preprocess | convert | generate | evaluate) ;;
        *) refuse "'${ARGUMENTS[0]}' is no config and none of train distill preprocess convert generate evaluate" ;;
    esac
    for word in "${ARGUMENTS[@]}"; do
        case $word in
            --workdir | --workdir=*) refuse "give --workdir before the --" ;;
        esac
    done
}

remember() {
    dry && return
    local name
    mkdir -p "$STATE/$NAME"
    for name in "${REMEMBERED[@]}"; do
        printf '%s=%s\n' "$name" "${!name}"
    done >"$STATE/$NAME/settings.new"
    mv "$STATE/$NAME/settings.new" "$STATE/$NAME/settings"
    if ((${#ARGUMENTS[@]})); then
        printf '%s\0' "${ARGUMENTS[@]}" >"$STATE/$NAME/arguments"
    fi
}
forget() {
    dry || rm -rf "${STATE:?}/$NAME"
}

# The machines are there since now, or not any more: the hours of --max-hours are counted.
clock_starts() {
    [ -n "$READY_SINCE" ] || READY_SINCE=$(date +%s)
    remember
}
clock_stops() {
    HELD=$(seconds_held) READY_SINCE=''
    remember
}
seconds_held() {
    if [ -n "$READY_SINCE" ]; then
        echo $((HELD + $(date +%s) - READY_SINCE))
    else
        echo "$HELD"
    fi
}
seconds_left() { # of --max-hours
    awk -v h="$MAX_HOURS" -v s="$(seconds_held)" 'BEGIN { left = h * 3600 - s; printf "%d", (left > 0) ? left : 0 }'
}
