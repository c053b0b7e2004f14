"""The commands for jobs in a cluster: parse, call, print; nothing else."""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

import click

from orchard import interruption
from orchard.cluster import emr
from orchard.cluster.manifests import Submission, default_image, render, to_yaml
from orchard.cluster.state import Status, json_line
from orchard.errors import ClusterError, UsageError
from orchard.flags import DRIVERS, STORAGE, comparison, key_values, options, settings_from
from orchard.redaction import is_secret, redacted, without_secrets

log = logging.getLogger(__name__)

Command = Callable[..., Any]

_IN_SUBMIT = tuple(name for name in DRIVERS["run"] if name not in ("master", "webhook", "source_weight"))
"""The flags of settings: the cluster is the master, a webhook's address, which is secret, comes from a Secret, and one
source has no weight."""


def _in_cluster(command: Command) -> Command:
    """Give a command the flags that say in which cluster."""
    command = click.option("--context", help="context of the kubeconfig  [default: the current one]")(command)
    return click.option("--namespace", "-n", help="namespace  [default: the context's]")(command)


def _on_emr(command: Command) -> Command:
    return click.option("--virtual-cluster-id", metavar="ID", help="EMR on EKS: the virtual cluster")(command)


def _pairs(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    return key_values(given)


def _resources(command: Command) -> Command:
    """Give a command the flags that say how many executors there are and how large the pods."""
    described = [
        ("--executors", "N", "number of executors"),
        ("--executor-cores", "N", "tasks that an executor works on at a time"),
        ("--executor-memory", "SIZE", "heap of an executor's JVM, such as 512m"),
        ("--executor-memory-overhead", "SIZE", "an executor's memory beside its heap, some 450m for each core"),
        ("--executor-core-request", "CPUS", "CPUs that an executor asks for, such as 500m"),
        ("--driver-core-request", "CPUS", "CPUs that the driver asks for"),
        ("--driver-memory-overhead", "SIZE", "the driver's memory beside --driver-memory"),
    ]
    for flag, metavar, text in reversed(described):
        kind = click.IntRange(min=1) if metavar == "N" else click.STRING
        command = click.option(flag, metavar=metavar, type=kind, help=f"{text}  [default: the chart's]")(command)
    return command


def _only_one(context: click.Context, argument: click.Parameter, given: tuple[str, ...]) -> str | None:  # noqa: ARG001
    """Return the one source, or None. Raises UsageError for several: the chart's value is one address."""
    if len(given) > 1:
        raise UsageError(
            "orchard submit and the chart take one source: list the images of all in one manifest, or use orchard run."
        )
    return given[0] if given else None


@click.command(short_help="run in a Kubernetes cluster, or by EMR on EKS")
@click.argument("source", nargs=-1, callback=_only_one)
@click.option("--output", "-o", required=True, help="bucket's prefix for the results, or a path in a claim")
@click.option("--command", type=click.Choice(list(DRIVERS)), default="run", help="what the driver does  [default: run]")
@comparison(required=False)
@click.option("--name", default="orchard", help="name of the job  [default: orchard]")
@_in_cluster
@click.option("--image", help="image with Orchard  [default: orchard of this version]")
@_resources
@click.option("--s3-secret", metavar="NAME", help="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
@click.option("--gcs-account", metavar="EMAIL", help="Google service account of the pods (GKE's workload identity)")
@click.option("--azure-client", metavar="ID", help="client id of the pods' managed identity (AKS' workload identity)")
@click.option("--webhook-secret", metavar="NAME", help="Secret with the address of a webhook under the key url")
@click.option("--s3-role", metavar="ARN", help="IAM role of the service accounts (IRSA)")
@click.option(
    *("--claim", "claims"),
    multiple=True,
    callback=_pairs,
    metavar="NAME=/PATH",
    help="mount a PersistentVolumeClaim in driver and executors; can be repeated",
)
@click.option(
    *("--start-timeout", "start_timeout"),
    default=600.0,
    metavar="SECONDS",
    help="how long the driver may wait for a node  [default: 600]",
)
@click.option("--detach", is_flag=True, help="do not wait for the job's end")
@click.option("--dry-run", is_flag=True, help="print what would be sent, and send nothing")
@click.option("--target", type=click.Choice(["kubernetes", "emr-eks"]), default="kubernetes", help="where to run")
@_on_emr
@click.option("--execution-role-arn", metavar="ARN", help="EMR on EKS: the job's IAM role")
@click.option(
    *("--release-label", "release_label"), default=emr.RELEASE, help=f"EMR on EKS: release  [default: {emr.RELEASE}]"
)
@click.option("--log-group", metavar="NAME", help="EMR on EKS: CloudWatch log group")
@click.option("--log-uri", metavar="s3://…", help="EMR on EKS: where logs go in S3")
@click.option("--tags", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="EMR on EKS: tag; can be repeated")
@click.option("--retries", type=click.IntRange(min=0), default=2, metavar="N", help="EMR on EKS: retries  [default: 2]")
@options(*_IN_SUBMIT)
def submit(  # noqa: PLR0917 -- click passes each flag by name
    source: str | None,
    output: str,
    command: str,
    backbones: str | None,
    tolerance: float | None,
    name: str,
    namespace: str | None,
    context: str | None,
    image: str | None,
    executors: int | None,
    executor_cores: int | None,
    executor_memory: str | None,
    executor_memory_overhead: str | None,
    executor_core_request: str | None,
    driver_core_request: str | None,
    driver_memory_overhead: str | None,
    s3_secret: str | None,
    webhook_secret: str | None,
    s3_role: str | None,
    gcs_account: str | None,
    azure_client: str | None,
    claims: dict[str, str],
    start_timeout: float,
    detach: bool,
    dry_run: bool,
    target: str,
    virtual_cluster_id: str | None,
    execution_role_arn: str | None,
    release_label: str,
    log_group: str | None,
    log_uri: str | None,
    tags: dict[str, str],
    retries: int,
    as_json: bool,
    **flags: Any,
) -> int:
    """Run the pipeline on the images at SOURCE in a cluster, show its progress, and exit as it does.

    With --command it runs `orchard compare`, or `orchard tune` on what --output holds.

    Interrupted, it leaves the job running: `orchard logs` and `orchard status` show it, `orchard cancel` ends it.

    \b
    Example:
      orchard submit s3a://bucket/photos --output s3a://bucket/results --executors 4 --s3-secret s3-keys
      orchard submit s3a://bucket/photos --output s3a://bucket/results --dry-run | kubectl apply -f -
      orchard submit s3a://bucket/photos --output s3a://bucket/nets --command compare --backbones A,B
      orchard submit --output s3a://bucket/results --command tune
    """
    _check_flags(command, flags)
    job = Submission(
        name=name,
        source=source,
        output=output,
        command=command,
        backbones=backbones,
        tolerance=tolerance,
        settings=settings_from(flags),
        image=image,
        executors=executors,
        executor_cores=executor_cores,
        executor_memory=executor_memory,
        executor_memory_overhead=executor_memory_overhead,
        executor_core_request=executor_core_request,
        driver_core_request=driver_core_request,
        driver_memory_overhead=driver_memory_overhead,
        s3_secret=s3_secret,
        webhook_secret=webhook_secret,
        s3_role=s3_role,
        gcs_account=gcs_account,
        azure_client=azure_client,
        claims=claims,
        as_json=as_json,
    )
    for key in filter(is_secret, job.settings.spark_conf):
        log.warning("%s will lie in clear in the job's settings in the cluster: give S3's keys by --s3-secret", key)
    if target == "emr-eks":
        if not (virtual_cluster_id and execution_role_arn and image):
            raise UsageError("--target emr-eks needs --virtual-cluster-id, --execution-role-arn and --image.")
        if s3_secret or s3_role or gcs_account or azure_client or claims:
            raise UsageError(
                "On EMR the execution role gives access: leave --s3-secret, --s3-role, --gcs-account, --azure-client "
                "and --claim away."
            )
        if webhook_secret or job.settings.bounds():
            raise UsageError(
                "On EMR pods get no Secret of yours and the driver may not scale: leave --webhook-secret and "
                "--finish-within away, and take --spark-conf spark.dynamicAllocation.enabled=true to scale."
            )
        run = emr.JobRun(job, virtual_cluster_id, execution_role_arn, release_label, log_group, log_uri, tags, retries)
        return _submit_to_emr(run, start_timeout, detach=detach, dry_run=dry_run)
    if dry_run:
        click.echo(to_yaml(*render(job, namespace or _context_namespace(context))), nl=False)
        return 0
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    cluster = Cluster(context=context, namespace=namespace)
    where = f" -n {cluster.namespace}" + (f" --context {context}" if context else "")
    interruption.say(f"interrupted: `orchard status {name}{where}` shows whether it runs, `orchard cancel` ends it.")
    with interruption.in_order():
        jobs.submit(cluster, name, render(job, cluster.namespace))
    if detach:
        click.echo(f"{name} is submitted; next: orchard status {name}{where}")
        return 0
    log.info("following %s in the namespace %s, image %s", name, cluster.namespace, image or default_image())
    interruption.say(
        f"no longer followed, {name} runs on: `orchard logs {name} --follow{where}` shows it, "
        f"`orchard cancel {name}{where}` ends it."
    )
    ended = jobs.follow(cluster, name, start_timeout=start_timeout)
    if ended.reason:
        click.echo(redacted(f"orchard: {ended.reason}"), err=True)
    return ended.exit_code or 0


def _check_flags(command: str, flags: dict[str, Any]) -> None:
    """Refuse a flag that the driver's command does not have. Raises UsageError."""
    for name in _IN_SUBMIT:
        if name not in DRIVERS[command] and flags[name] not in (None, ()):
            raise UsageError(f"--{name.replace('_', '-')} is no flag of `orchard {command}`: leave it away.")


def _context_namespace(context: str | None) -> str:
    """Return the namespace that a submission would go to; what is only printed needs no cluster."""
    from orchard.cluster.client import Cluster

    try:
        return Cluster(context=context).namespace
    except ClusterError:
        if context:
            raise
        return "default"


def _submit_to_emr(run: "emr.JobRun", start_timeout: float, *, detach: bool, dry_run: bool) -> int:
    if dry_run:
        _print_json(run.request())
        return 0
    service = emr.Emr(run.virtual_cluster_id)
    identity = service.start(run)
    where = f"{identity} --virtual-cluster-id {run.virtual_cluster_id}"
    if detach:
        click.echo(f"{identity} is submitted; next: orchard status {where}")
        return 0
    log.info("following %s", identity)
    interruption.say(f"no longer followed, the job runs on: `orchard status {where}`, `orchard cancel {where}`.")
    service.follow(identity, start_timeout=start_timeout)
    return 0


@click.command(short_help="show a job's status")
@click.argument("name")
@click.option("--watch", "-w", is_flag=True, help="say it again whenever it changes, until the job ends")
@_in_cluster
@_on_emr
@options()
def status(  # noqa: PLR0917 -- click passes each flag by name
    name: str,
    watch: bool,
    namespace: str | None,
    context: str | None,
    virtual_cluster_id: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Say how the job NAME is: state, progress, executors, and why if something is wrong.

    Exits as the job did; with 4 if it cannot start.

    \b
    Example:
      orchard status orchard
      orchard status orchard --watch
      orchard status 00000002uf8fut3jn1m --virtual-cluster-id abc123def456ghi789jk
    """
    settings_from(flags)
    if virtual_cluster_id:
        state = emr.Emr(virtual_cluster_id).status(name)
        _print_json(without_secrets(state.to_dict())) if as_json else click.echo(redacted(state.sentence))
        return state.exit_code or 0
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    cluster, code = Cluster(context=context, namespace=namespace), 0
    if watch:
        interruption.say("no longer watched; the job runs on.")
    for nth, found in enumerate(jobs.watch(cluster, name) if watch else [jobs.report(cluster, name)]):
        if as_json:
            told = without_secrets(found.to_dict())
            click.echo(json.dumps(told, ensure_ascii=False)) if watch else _print_json(told)
        else:
            click.echo("\n" * bool(nth), nl=False)
            _print_status(found)
        code = found.exit_code or 0
    return code


@click.command(short_help="show a job's log")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="until the pod ends")
@click.option("--executor", type=click.IntRange(min=0), metavar="N", help="of executor N instead of the driver")
@_in_cluster
@click.option("--output", "-o", help="read what the last run left in this output; needs no cluster, and no job")
@click.option("--spark", is_flag=True, help="of that what the driver's Spark said")
@options(*STORAGE)
def logs(  # noqa: PLR0917 -- click passes each flag by name
    name: str,
    follow: bool,
    executor: int | None,
    namespace: str | None,
    context: str | None,
    output: str | None,
    spark: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Print the log of the driver of the job NAME, or of one of its executors.

    When the driver's pod is gone it is the log that the run has left in its output. With --json every line is JSON.

    \b
    Example:
      orchard logs orchard --follow
      orchard logs orchard --executor 0
      orchard logs orchard --output s3a://bucket/results
    """
    settings = settings_from(flags)
    from orchard import runlog
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    def show(lines: Iterable[str]) -> None:
        for line in lines:
            is_json = json_line(line) is not None
            click.echo(redacted(line if is_json or not as_json else json.dumps({"event": line}, ensure_ascii=False)))

    if output is None and not spark:
        cluster = Cluster(context=context, namespace=namespace)
        try:
            show(jobs.logs(cluster, name, executor=executor, follow=follow))
            return 0
        except jobs.PodGone:
            output = jobs.output_of(cluster, name)
    output = output or jobs.output_of(Cluster(context=context, namespace=namespace), name)
    if output is None:
        raise ClusterError(f"The pods of {name} are gone: name its output with --output to read the log that is there.")
    show(runlog.lines(output, settings.s3_options(), spark=spark))
    return 0


@click.command(short_help="change the number of executors of a running job")
@click.argument("name")
@click.argument("executors", type=click.IntRange(min=0), metavar="N")
@click.option("--timeout", default=300.0, metavar="SECONDS", help="how long to wait for them  [default: 300]")
@click.option("--no-wait", is_flag=True, help="do not wait for them")
@click.option("--if-running", is_flag=True, help="a job that does not run is no error")
@_in_cluster
@options()
def scale(  # noqa: PLR0917 -- click passes each flag by name
    name: str,
    executors: int,
    timeout: float,
    no_wait: bool,
    if_running: bool,
    namespace: str | None,
    context: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Give the running job NAME N executors, and wait until they have registered with its driver.

    \b
    Example:
      orchard scale orchard 8
    """
    settings_from(flags)
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    cluster = Cluster(context=context, namespace=namespace)
    sentence = jobs.scale(cluster, name, executors, wait=not no_wait, timeout=timeout, if_running=if_running)
    _print_json({"name": name, "executors": executors, "done": sentence}) if as_json else click.echo(sentence)
    return 0


@click.command(short_help="run a job that has ended again")
@click.argument("name")
@_in_cluster
@options()
def retry(name: str, namespace: str | None, context: str | None, as_json: bool, **flags: Any) -> int:
    """Run the job NAME, which has failed, again as it was: when keys, a quota or a bucket are mended.

    \b
    Example:
      orchard retry orchard
    """
    settings_from(flags)
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    sentence = jobs.retry(Cluster(context=context, namespace=namespace), name)
    _print_json({"name": name, "done": sentence}) if as_json else click.echo(sentence)
    return 0


@click.command(short_help="end a job in a cluster")
@click.argument("name")
@_in_cluster
@_on_emr
@options()
def cancel(
    name: str, namespace: str | None, context: str | None, virtual_cluster_id: str | None, as_json: bool, **flags: Any
) -> int:
    """End the job NAME and wait until its pods are gone; what it has committed is kept.

    \b
    Example:
      orchard cancel orchard
    """
    settings_from(flags)
    if virtual_cluster_id:
        sentence = emr.Emr(virtual_cluster_id).cancel(name)
    else:
        from orchard.cluster import jobs
        from orchard.cluster.client import Cluster

        sentence = jobs.cancel(Cluster(context=context, namespace=namespace), name)
    _print_json({"name": name, "done": sentence}) if as_json else click.echo(sentence)
    return 0


COMMANDS = (submit, status, logs, scale, retry, cancel)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _print_status(found: Status) -> None:
    lines = [f"state      {found.state}" + (f", exit code {found.exit_code}" if found.exit_code else "")]
    if found.reason:
        lines.append(f"reason     {redacted(found.reason)}")
    if found.stage:
        of = f", {found.done:,} of {found.total:,}" if found.total and found.done is not None else ""
        rate = f" at {found.per_second:,.0f} a second" if of and found.per_second else ""
        left = f", {found.seconds_left:,.0f} s left" if found.seconds_left else ""
        lines.append(f"stage      {found.stage}{of}{rate}{left}")
    if found.executors_wanted is not None:
        registered = "" if found.executors_registered is None else f", {found.executors_registered} registered"
        lines.append(f"executors  {found.executors_wanted} wanted, {found.executors_ready} ready{registered}")
    lines.append(f"restarts   {found.restarts}")
    if found.seconds is not None:
        lines.append(f"seconds    {found.seconds:,.1f}")
    click.echo("\n".join(lines))
