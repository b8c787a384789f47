#!/bin/bash
# Runs on the machines as they start: deletes them when --max-hours are over, whoever has forgotten them.
# The account of the machines needs roles/tpu.admin for that. What it does: journalctl -t omnihuman-guard
set -u
about() {
    curl -sf -H 'Metadata-Flavor: Google' \
        "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
log() { logger -t omnihuman-guard "$*"; }

[ "$(about agent-worker-number)" = 0 ] || exit 0
name=$(about omnihuman-name) on=$(about omnihuman-on) zone=$(about omnihuman-zone)
seconds=$(about omnihuman-seconds)
[ -n "$name" ] && [ -n "$zone" ] && [ -n "$seconds" ] || exit 0

# The same end after a reboot.
end=/var/lib/omnihuman-end
[ -s "$end" ] || echo $(($(date +%s) + seconds)) >"$end"
log "$name is deleted at $(date -d "@$(cat "$end")")"
(
    while [ "$(date +%s)" -lt "$(cat "$end")" ]; do sleep 60; done
    while :; do
        log "$name: --max-hours are over"
        if [ "$on" = vm ]; then
            gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --quiet 2>&1 | logger -t omnihuman-guard
        else
            gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet 2>&1 |
                logger -t omnihuman-guard
        fi
        sleep 300
    done
) </dev/null >/dev/null 2>&1 &
