# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that talks to worker.sh on all workers, and reads its answers.
# An answer is a line `omnihuman: KIND host=... key=value ...`; all others are for people.

# VERB ARGUMENTS: on every worker at once. What they say is shown, and kept in $SCRATCH/answers.
worker() {
    local code=0
    on_workers "$@" >"$SCRATCH/answers" || code=$?
    dry || cat "$SCRATCH/answers"
    [ "$code" = 0 ] || repeat_what_was_said
    return "$code"
}

answers() { # KIND -> its lines
    dry || grep "^omnihuman: $1 " "$SCRATCH/answers" || true
}

# KIND: every worker has answered, and all but the name of the host is the same.
agree() {
    dry && return
    local count kinds
    count=$(answers "$1" | wc -l)
    kinds=$(answers "$1" | sed 's/ host=[^ ]*//' | sort | uniq -c | sort -rn)
    if ((count != HOSTS * SLICES)); then
        say "$NAME: $count of $((HOSTS * SLICES)) workers answered ($2)"
        return 1
    fi
    if (($(wc -l <<<"$kinds") > 1)); then
        say "$NAME: the workers differ in $2:"
        answers "$1" | sed 's/^/  /' >&2
        return 1
    fi
}

# How the workers are, in one word: running, finished, stopped, refused, failed, idle.
workers_are() {
    local total=$((HOSTS * SLICES)) lines
    dry && echo "$1" && return
    lines=$(answers state)
    count() { grep -c "$1" <<<"$lines" || true; }
    if [ "$(count 'state=ended code=2')" -gt 0 ]; then
        echo refused
    elif [ "$(count 'state=ended code=0')" = "$total" ]; then
        echo ended
    elif [ "$(count 'state=ended')" -gt "$(count 'state=ended code=0')" ]; then
        # One that has failed takes the others with it, which may need a moment.
        echo failed
    elif [ "$(count 'state=running')" -gt 0 ] &&
        [ $(($(count 'state=running') + $(count 'state=ended'))) = "$total" ]; then
        echo running # the first one has the model to write when others are done
    elif [ "$(count 'state=idle')" = "$total" ]; then
        echo idle
    else
        echo failed
    fi
}

# Look at health.json; after that `health KEY` is a number or word of it, empty if it is not there (yet).
read_health() {
    dry || { fetch "$WORKDIR/health.json" || true; } >"$SCRATCH/health"
}
health() {
    dry || sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "$SCRATCH/health" | head -n 1
}
