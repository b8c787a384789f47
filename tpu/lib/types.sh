# shellcheck shell=bash disable=SC2034,SC2153 # settings belong to all files of the launcher
# The only place that knows Cloud TPU's names: what a slice is made of, and the image its machines start from.
# v4 and v5p count cores (2 a chip), v5litepod and v6e chips, tpu7x devices (2 a chip).

# TYPE -> GENERATION, RUNTIME, CHIPS, HOSTS, DEVICES (what JAX counts), all of one slice.
slice_of() {
    local type=$1 size=${1##*-} per_host=4
    case $type in
        *-*[!0-9]* | *-) size=0 ;;
    esac
    case $type in
        v4-*) GENERATION=v4 RUNTIME=tpu-ubuntu2204-base CHIPS=$((size / 2)) ;;
        v5litepod-*) GENERATION=v5e RUNTIME=v2-alpha-tpuv5-lite CHIPS=$size ;;
        v5p-*) GENERATION=v5p RUNTIME=v2-alpha-tpuv5 CHIPS=$((size / 2)) ;;
        v6e-*) GENERATION=v6e RUNTIME=v2-alpha-tpuv6e CHIPS=$size ;;
        tpu7x-*) GENERATION=tpu7x RUNTIME=v2-alpha-tpu7-ubuntu2404 CHIPS=$((size / 2)) ;;
        local-*) GENERATION=cpu RUNTIME=none CHIPS=$size per_host=1 ;;
        v5e-*) refuse "--type $type: Cloud TPU calls v5e v5litepod; use v5litepod-${type#v5e-}" ;;
        v7x-* | v7-* | tpu7-*) refuse "--type $type: Cloud TPU calls it tpu7x; use tpu7x-$size" ;;
        *) refuse "--type $type: there is v4-8, v5litepod-16, v5p-128, v6e-64, tpu7x-8 and the like, and local-2" ;;
    esac
    case $GENERATION:$size in
        v5e:[14] | v6e:[14] | v5e:8 | v6e:8) per_host=$size ;;
        v5e:16 | v5e:32 | v5e:64 | v5e:128 | v5e:256) ;;
        v6e:16 | v6e:32 | v6e:64 | v6e:128 | v6e:256) ;;
        v5e:* | v6e:*) refuse "--type $type: sizes of $GENERATION are 1 4 8 16 32 64 128 256" ;;
        cpu:[1-9] | cpu:[1-9][0-9]) ;;
        cpu:*) refuse "--type $type: local-1 to local-99" ;;
        *) ((size >= 8 && size % 8 == 0)) ||
            refuse "--type $type: sizes of $GENERATION are 8 16 32 64 ... (${GENERATION} counts two a chip)" ;;
    esac
    HOSTS=$((CHIPS / per_host))
    DEVICES=$CHIPS
    [ "$GENERATION" != tpu7x ] || DEVICES=$size
}
