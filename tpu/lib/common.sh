# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that prints, refuses, and runs other programs: shown in a dry run, tried again when it helps.

DRY=no
SCRATCH=$(mktemp -d)
readonly SCRATCH
readonly ATTEMPTS=5 # of one command that fails for a reason that passes
# What the network, ssh and Google's servers say when the same command may work a little later.
readonly PASSING='connection (refused|closed|reset|timed out)|kex_exchange|could not (resolve|connect)|timed out'\
'|broken pipe|network is unreachable|host key|permission denied \(publickey|UNAVAILABLE|internal error|DEADLINE'\
'|rate.?limit|try again|\[255\]|status 255|http 50[0-9]|ssh.*255'
readonly FINAL='quota|RESOURCE_EXHAUSTED|PERMISSION_DENIED|NOT_FOUND|ALREADY_EXISTS|no more capacity'

say() { printf 'launch%s: %s\n' "$(dry && echo ' (dry run)')" "$*" >&2; }
refuse() {
    say "$*"
    exit 2
}
fail() {
    say "$*"
    exit 1
}
dry() { [ "$DRY" = yes ]; }

# Words -> one line that a shell reads back as the same words.
quoted() {
    local word line=''
    for word; do
        case $word in
            '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
        esac
        line+="${line:+ }$word"
    done
    printf '%s\n' "$line"
}

# SECONDS; in a dry run no time passes. LAUNCH_PAUSE is for tests.
pause() {
    dry && return
    sleep "${LAUNCH_PAUSE:-$1}" &
    SLEEPER=$!
    wait "$SLEEPER"
}

interrupted() {
    [ -z "${SLEEPER:-}" ] || kill "$SLEEPER" 2>/dev/null || true
    say "interrupted. ${GOES_ON:-}"
    exit 130
}

# Run a program once: what it says against us is kept for `said`. A dry run prints it.
once() {
    if dry; then
        quoted "$@" >&3
        return
    fi
    local code=0 mine=$SCRATCH/said.$BASHPID # workers are asked side by side
    "$@" 2>"$mine" || code=$?
    mv "$mine" "$SCRATCH/said"
    return "$code"
}

# Whether the last program that failed said something like this (an extended regular expression).
said() { grep -qiE "$1" "$SCRATCH/said" 2>/dev/null; }
repeat_what_was_said() { sed 's/^/  /' "$SCRATCH/said" >&2 || true; }

# The same, at most ATTEMPTS times with growing pauses, as long as the reason may pass.
patiently() {
    local attempt code seconds=5
    for ((attempt = 1; ; attempt++)); do
        code=0
        once "$@" || code=$?
        [ "$code" != 0 ] || return 0
        ! said "$FINAL" || return "$code"
        [ "$code" = 255 ] || said "$PASSING" || return "$code"
        if ((attempt == ATTEMPTS)); then
            say "given up after $ATTEMPTS attempts: $(quoted "$1" "${@:2:3}") ..."
            return "$code"
        fi
        say "attempt $attempt of $ATTEMPTS failed ($(head -c 200 "$SCRATCH/said" | tail -n 1)), again in ${seconds}s"
        pause "$seconds"
        seconds=$((seconds * 2))
    done
}

# The last program failed for good: say why, in words that help, and leave.
explained() {
    if said 'quota|RESOURCE_EXHAUSTED'; then
        say "$1: Google refuses for lack of quota or of chips in $ZONE. Ask for the quota 'TPU $GENERATION'" \
            "(IAM & Admin > Quotas), or try another zone, fewer chips, or --spot. It said:"
    elif said 'PERMISSION_DENIED|does not have permission|403'; then
        say "$1: not allowed. The account needs roles/tpu.admin, and the TPU API must be on:" \
            "gcloud services enable tpu.googleapis.com. It said:"
    elif said 'auth login|credentials|not currently have an active account'; then
        say "$1: gcloud is not signed in; run: gcloud auth login. It said:"
    else
        say "$1. It said:"
    fi
    repeat_what_was_said
    exit 1
}

need() {
    dry || command -v "$1" >/dev/null || refuse "$1 is not installed; $2"
}

hours() { # seconds -> "3.5 hours"
    awk -v s="$1" 'BEGIN { printf "%.3g hours", s / 3600 }'
}
