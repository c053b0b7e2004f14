#!/bin/bash
# driver ...: what Spark on Kubernetes starts a driver's pod with; executor: an executor's; anything else is
# `orchard ...`.
set -euo pipefail

# Hadoop refuses a user without a name, and Docker and OpenShift run images as any number.
if ! getent passwd "$UID" >/dev/null; then
	{
		cat /etc/passwd
		echo "orchard:x:$UID:$(id -g)::$HOME:/bin/false"
	} >/tmp/.passwd
	export LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD=/tmp/.passwd NSS_WRAPPER_GROUP=/etc/group
fi

case ${1-} in
driver)
	shift
	# SIGTERM is for the program, which commits and unlocks: the JVM would end at once, and take the program with it.
	# A JVM that was killed leaves the program, now a child of tini, to delete its executors. What the program says goes
	# through the JVM, and is lost.
	# shellcheck disable=SC2016 # the inner shell's
	exec tini -s -- bash -c '
		"$@" &
		java=$!
		trap "pkill -TERM --parent $java,$PPID python3 || kill -TERM $java" TERM
		while wait "$java" 2>/dev/null; code=$?; kill -0 "$java" 2>/dev/null; do :; done
		for _ in {1..150}; do pgrep --parent "$PPID" python3 >/dev/null || break; sleep 0.2; done
		# The JVM ends with this code, too, if the program was killed.
		[ $code -ne 137 ] || echo "orchard: The driver or its JVM was killed, most likely for want of memory: give it more." >&2
		exit $code' driver \
		spark-submit \
		--conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
		--conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
		--deploy-mode client "$@"
	;;
executor)
	# The options for java come as SPARK_JAVA_OPT_0, SPARK_JAVA_OPT_1, ...
	options=()
	while read -r name; do
		options+=("${!name}")
	done < <(compgen -A variable SPARK_JAVA_OPT_ | sort -t_ -k4 -n)
	# shellcheck disable=SC2016 # the inner shell's
	exec tini -s -g -- bash -c 'trap : TERM; "$@"; code=$?; [ ! -e /tmp/.leaving ] || sleep 1; exit $code' executor \
		java "${options[@]}" \
		"-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" \
		-cp "${SPARK_CONF_DIR:-$SPARK_HOME/conf}:$SPARK_HOME/jars/*:${SPARK_EXTRA_CLASSPATH-}" \
		org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
		--driver-url "$SPARK_DRIVER_URL" \
		--executor-id "$SPARK_EXECUTOR_ID" \
		--cores "$SPARK_EXECUTOR_CORES" \
		--app-id "$SPARK_APPLICATION_ID" \
		--hostname "$SPARK_EXECUTOR_POD_IP" \
		--resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" \
		--podName "$SPARK_EXECUTOR_POD_NAME"
	;;
orchard)
	shift
	;;
esac
exec tini -s -- orchard "$@"
