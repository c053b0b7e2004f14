#!/bin/bash
# Spark runs this as an executor pod's preStop hook: tell the executor to hand its blocks over, then hold the pod
# until it has left.
pid=$(pgrep --newest --exact java) || exit 0
touch /tmp/.leaving # the entrypoint then stays a moment longer than java, so that this hook can end in order
kill -PWR "$pid" || exit 0
timeout 115 tail --sleep-interval=0.2 --pid="$pid" --follow /dev/null || true
