"""The commands for jobs in a cluster: parse, call, print; nothing else."""

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

import click

from orchard import interruption
from orchard.cli.printing import print_json, print_lines
from orchard.cluster import emr, emr_ec2, emr_serverless
from orchard.cluster.manifests import Submission, default_image, render, to_yaml
from orchard.cluster.state import Status, json_line
from orchard.commandline import FiniteRange
from orchard.errors import ClusterError, UsageError
from orchard.flags import DRIVERS, STORAGE, comparison, key_values, options, settings_from
from orchard.redaction import is_secret, redacted, without_secrets
from orchard.settings_text import flag_of

log = logging.getLogger(__name__)

Command = Callable[..., Any]

_IN_SUBMIT = tuple(name for name in DRIVERS["run"] if name not in ("master", "webhook", "source_weight"))
"""The flags of settings: the cluster is the master, a webhook's address, which is secret, comes from a Secret, and one
source has no weight."""


def _in_cluster(command: Command) -> Command:
    """Add the flags that select the cluster to a command."""
    command = click.option("--context", help="context of the kubeconfig  [default: the current one]")(command)
    return click.option("--namespace", "-n", help="namespace  [default: the context's]")(command)


_PLACES: dict[str, type[emr.Service]] = {
    "virtual_cluster_id": emr.Emr,
    "cluster_id": emr_ec2.Ec2,
    "application_id": emr_serverless.Serverless,
}
"""The flags that name a place of EMR."""


def _on_emr(command: Command) -> Command:
    """Add the flags of `_PLACES` to a command."""
    command = click.option("--application-id", metavar="ID", help="EMR Serverless: the application")(command)
    command = click.option("--cluster-id", metavar="ID", help="EMR on EC2: the cluster")(command)
    return click.option("--virtual-cluster-id", metavar="ID", help="EMR on EKS: the virtual cluster")(command)


def _place(flags: dict[str, Any]) -> emr.Service | None:
    """Take the flags of `_PLACES` and return the place of EMR that is named. Raises UsageError for several."""
    named = {key: identity for key in _PLACES if (identity := flags.pop(key))}
    if len(named) > 1:
        raise UsageError(f"{' and '.join(_PLACES[key].flag for key in named)} name two places: give one of them.")
    return next((_PLACES[key](identity) for key, identity in named.items()), None)


def _made_for_ec2(command: Command) -> Command:
    """Add the flags of a new EMR on EC2 cluster to a command."""
    default = emr_ec2.Step
    described: list[tuple[str, str, Any, str]] = [
        ("--bundle", "s3://…", None, "address of what its nodes install; `make bundle-emr` prints it"),
        ("--bundle-sha256", "HEX", None, "SHA-256 digest of the bundle"),
        ("--subnet-id", "ID", None, "its subnet"),
        ("--instance-profile", "NAME", default.instance_profile, "instance profile of its nodes"),
        ("--service-role", "NAME", default.service_role, "IAM role that EMR assumes"),
        ("--instance-type", "TYPE", default.instance_type, "instance type of its nodes"),
        ("--max-instances", "N", default.max_instances, "largest number of core and task nodes"),
        ("--idle-minutes", "N", default.idle_minutes, "minutes without a job until it ends"),
    ]
    for flag, metavar, value, text in reversed(described):
        kind = click.IntRange(min=1) if metavar == "N" else click.STRING
        shown = f"  [default: {value}]" if value else ""
        command = click.option(
            flag, metavar=metavar, type=kind, default=value, help=f"a new cluster on EC2: {text}{shown}"
        )(command)
    return command


def _pairs(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    return key_values(given)


def _resources(command: Command) -> Command:
    """Add the flags for the number of executors and the size of the pods to a command."""
    described = [
        ("--executors", "N", "number of executors"),
        ("--executor-cores", "N", "number of tasks that an executor runs at a time"),
        ("--executor-memory", "SIZE", "heap of an executor's JVM, such as 512m"),
        ("--executor-memory-overhead", "SIZE", "memory of an executor outside its heap, about 450m for each core"),
        ("--executor-core-request", "CPUS", "CPUs that an executor requests, such as 500m"),
        ("--driver-core-request", "CPUS", "CPUs that the driver requests"),
        ("--driver-memory-overhead", "SIZE", "memory of the driver outside its heap (--driver-memory)"),
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


@click.command(short_help="run on Kubernetes or EMR")
@click.argument("source", nargs=-1, callback=_only_one)
@click.option("--output", "-o", required=True, help="where results go: a prefix of a bucket, or a path in a claim")
@click.option(
    "--command", type=click.Choice(list(DRIVERS)), default="run", help="command that the driver runs  [default: run]"
)
@comparison(required=False)
@click.option("--name", default="orchard", help="name of the job  [default: orchard]")
@_in_cluster
@click.option("--image", help="container image of Orchard (default: orchard, tagged with this version)")
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
    type=FiniteRange(0),
    metavar="SECONDS",
    help="time that the driver may wait for a node, in seconds  [default: 600]",
)
@click.option("--detach", is_flag=True, help="return at once, without waiting for the job to end")
@click.option("--dry-run", is_flag=True, help="print what would be sent, and send nothing")
@click.option(
    "--target",
    type=click.Choice(["kubernetes", "emr-eks", "emr-ec2", "emr-serverless"]),
    default="kubernetes",
    help="where to run  [default: kubernetes]",
)
@_on_emr
@click.option("--execution-role-arn", metavar="ARN", help="EMR on EKS, Serverless: the job's IAM role")
@click.option(
    "--release-label",
    help=f"EMR: release label (default: {emr.RELEASE} on EKS, as the image's; else {emr_ec2.RELEASE})",
)
@click.option("--log-group", metavar="NAME", help="EMR on EKS, Serverless: CloudWatch log group")
@click.option("--log-uri", metavar="s3://…", help="EMR: S3 address that logs are written to")
@click.option("--tags", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="EMR: tag; can be repeated")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=2,
    metavar="N",
    help="EMR on EKS, Serverless: number of retries  [default: 2]",
)
@_made_for_ec2
@options(*_IN_SUBMIT)
def submit(  # noqa: PLR0911, PLR0912, PLR0915, PLR0917 -- click passes each flag by name, and each target has its own
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
    cluster_id: str | None,
    application_id: str | None,
    execution_role_arn: str | None,
    release_label: str | None,
    log_group: str | None,
    log_uri: str | None,
    tags: dict[str, str],
    retries: int,
    bundle: str | None,
    bundle_sha256: str | None,
    subnet_id: str | None,
    instance_profile: str,
    service_role: str,
    instance_type: str,
    max_instances: int,
    idle_minutes: int,
    as_json: bool,
    **flags: Any,
) -> int:
    """Run the pipeline on the images at SOURCE in a cluster, show its progress, and exit with its code.

    With --command compare it runs `orchard compare`; with --command tune, `orchard tune` on the output.

    After Ctrl-C the job runs on: `orchard status` and `orchard logs` show it, `orchard cancel` ends it.

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
    if target != "kubernetes":
        if s3_secret or s3_role or gcs_account or azure_client or claims:
            raise UsageError(
                "On EMR the execution role gives access: leave --s3-secret, --s3-role, --gcs-account, --azure-client "
                "and --claim away."
            )
        if not dry_run:  # elsewhere the driver does so, which may have more rights than this machine
            job.settings.check_regions(source, output, bundle, log_uri)
        if webhook_secret or job.settings.bounds():
            raise UsageError(
                "On EMR pods get no Secret of yours and the driver may not scale: leave --webhook-secret and "
                "--finish-within away, and take --spark-conf spark.dynamicAllocation.enabled=true to scale."
            )
    if target == "emr-eks":
        if not (virtual_cluster_id and execution_role_arn and image):
            raise UsageError("--target emr-eks needs --virtual-cluster-id, --execution-role-arn and --image.")
        label = release_label or emr.RELEASE
        run = emr.JobRun(job, virtual_cluster_id, execution_role_arn, label, log_group, log_uri, tags, retries)
        if dry_run:
            print_json(run.request())
            return 0
        eks = emr.Emr(virtual_cluster_id)
        return _follow_on_emr(eks, eks.start(run), start_timeout, detach=detach)
    if target == "emr-ec2":
        if not (cluster_id or (bundle and bundle_sha256)):
            raise UsageError(
                "--target emr-ec2 needs --cluster-id, or for a new cluster --bundle and --bundle-sha256, "
                "as `make bundle-emr` prints them."
            )
        step = emr_ec2.Step(
            job,
            bundle=bundle,
            bundle_sha256=bundle_sha256,
            subnet_id=subnet_id,
            instance_profile=instance_profile,
            service_role=service_role,
            instance_type=instance_type,
            max_instances=max_instances,
            idle_minutes=idle_minutes,
            release_label=release_label or emr_ec2.RELEASE,
            log_uri=log_uri,
            tags=tags,
        )
        if dry_run:
            print_json({"JobFlowId": cluster_id, "Steps": [step.step()]} if cluster_id else step.request())
            return 0
        ec2 = emr_ec2.Ec2(cluster_id) if cluster_id else emr_ec2.Ec2.made_for(step)
        return _follow_on_emr(ec2, ec2.start(step) if cluster_id else ec2.first(), start_timeout, detach=detach)
    if target == "emr-serverless":
        if not (execution_role_arn and (application_id or image)):
            raise UsageError(
                "--target emr-serverless needs --execution-role-arn, and --application-id or, for a new one, --image."
            )
        label = release_label or emr_ec2.RELEASE
        serverless_run = emr_serverless.ServerlessRun(job, execution_role_arn, label, log_group, log_uri, tags, retries)
        if dry_run:
            made = {} if application_id else {"CreateApplication": serverless_run.application()}
            print_json({**made, "StartJobRun": serverless_run.request(application_id or "APPLICATION_ID")})
            return 0
        made_for = emr_serverless.Serverless.made_for
        serverless = emr_serverless.Serverless(application_id) if application_id else made_for(serverless_run)
        return _follow_on_emr(serverless, serverless.start(serverless_run), start_timeout, detach=detach)
    if dry_run:
        from orchard.cluster.client import check_namespace

        where = namespace or _context_namespace(context)
        check_namespace(where)
        click.echo(to_yaml(*render(job, where)), nl=False)
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
            raise UsageError(f"{flag_of(name)} is no flag of `orchard {command}`: leave it away.")


def _context_namespace(context: str | None) -> str:
    """Return the namespace that a submission would go to; what is only printed needs no cluster."""
    from orchard.cluster.client import Cluster

    try:
        return Cluster(context=context).namespace
    except ClusterError:
        if context:
            raise
        return "default"


def _follow_on_emr(service: emr.Service, identity: str, start_timeout: float, *, detach: bool) -> int:
    where = service.where(identity)
    if detach:
        click.echo(f"{identity} is submitted; next: orchard status {where}")
        return 0
    log.info("following %s", identity)
    interruption.say(f"no longer followed, the job runs on: `orchard status {where}`, `orchard cancel {where}`.")
    service.follow(identity, start_timeout=start_timeout)
    return 0


@click.command(short_help="show a job's status")
@click.argument("name")
@click.option("--watch", "-w", is_flag=True, help="print the status again at each change, until the job ends")
@_in_cluster
@_on_emr
@options()
def status(
    name: str,
    watch: bool,
    namespace: str | None,
    context: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Show the status of the job NAME: state, progress, executors, and the reason of a problem.

    The exit code is the job's own, or 4 if it cannot start. Of a release that only serves a model it is 0 if all
    servers are ready; of a schedule, that of its last run, and 0 before the first.

    \b
    Example:
      orchard status orchard
      orchard status orchard --watch
      orchard status 00000002uf8fut3jn1m --virtual-cluster-id abc123def456ghi789jk
      orchard status s-1A2B3C4D5E6F7 --cluster-id j-1A2B3C4D5E6F7
    """
    place = _place(flags)
    settings_from(flags)
    if place:
        state = place.status(name)
        print_json(without_secrets(state.to_dict())) if as_json else click.echo(redacted(state.sentence))
        return state.exit_code or 0
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    cluster, code = Cluster(context=context, namespace=namespace), 0
    if watch:
        interruption.say("no longer watched; the job runs on.")
    for nth, found in enumerate(jobs.watch(cluster, name) if watch else [jobs.report(cluster, name)]):
        if as_json:
            told = without_secrets(found.to_dict())
            print_json(told, indent=None if watch else 2)
        else:
            click.echo("\n" * bool(nth), nl=False)
            _print_status(found)
        code = found.exit_code or 0
    return code


@click.command(short_help="show a job's log")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="print new lines until the pod ends")
@click.option("--executor", type=click.IntRange(min=0), metavar="N", help="show executor N's log, not the driver's")
@_in_cluster
@_on_emr
@click.option("--output", "-o", help="show the log that the last run left in this output; needs no cluster")
@click.option("--spark", is_flag=True, help="show the driver's log of Spark, from the output")
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
    """Print the log of the job NAME: its driver's, or that of one executor.

    If the driver's pod is gone, this is the log that the run left in its output. With --json every line is JSON.

    \b
    Example:
      orchard logs orchard --follow
      orchard logs orchard --executor 0
      orchard logs orchard --output s3a://bucket/results
      orchard logs s-1A2B3C4D5E6F7 --cluster-id j-1A2B3C4D5E6F7
    """
    place = _place(flags)
    settings = settings_from(flags)
    from orchard import runlog
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    def show(lines: Iterable[str]) -> None:
        for line in lines:
            is_json = json_line(line) is not None
            click.echo(redacted(line if is_json or not as_json else json.dumps({"event": line}, ensure_ascii=False)))

    if place and output is None:
        if follow or executor is not None:
            raise UsageError("EMR keeps the driver's log, in parts: leave --follow and --executor away.")
        show(place.log(name))
        return 0
    if output is None and not spark:
        cluster = Cluster(context=context, namespace=namespace)
        try:
            show(jobs.logs(cluster, name, executor=executor, follow=follow))
            return 0
        except jobs.PodGone:
            output = jobs.output_of(cluster, name)
            if output is not None:  # what then cannot be read is not the cluster's
                log.info("the driver's pod of %s is gone: reading the log that it left in %s", name, output)
    output = output or jobs.output_of(Cluster(context=context, namespace=namespace), name)
    if output is None:
        raise ClusterError(f"The pods of {name} are gone: name its output with --output to read the log that is there.")
    show(runlog.lines(output, settings.s3_options(), spark=spark))
    return 0


@click.command(short_help="change the number of executors of a running job")
@click.argument("name")
@click.argument("executors", type=click.IntRange(min=0), metavar="N")
@click.option(
    "--timeout",
    default=300.0,
    type=FiniteRange(0),
    metavar="SECONDS",
    help="time to wait for the executors, in seconds  [default: 300]",
)
@click.option("--no-wait", is_flag=True, help="do not wait for the executors")
@click.option("--if-running", is_flag=True, help="exit with 0 if the job is not running")
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
    """Scale the running job NAME to N executors, and wait until they have registered with its driver.

    \b
    Example:
      orchard scale orchard 8
    """
    settings_from(flags)
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    cluster = Cluster(context=context, namespace=namespace)
    sentence = jobs.scale(cluster, name, executors, wait=not no_wait, timeout=timeout, if_running=if_running)
    print_json({"name": name, "executors": executors, "done": sentence}) if as_json else click.echo(sentence)
    return 0


@click.command(short_help="run an ended job again")
@click.argument("name")
@_in_cluster
@options()
def retry(name: str, namespace: str | None, context: str | None, as_json: bool, **flags: Any) -> int:
    """Run the ended job NAME again with the same settings, such as when keys, a quota or a bucket are mended.

    \b
    Example:
      orchard retry orchard
    """
    settings_from(flags)
    from orchard.cluster import jobs
    from orchard.cluster.client import Cluster

    sentence = jobs.retry(Cluster(context=context, namespace=namespace), name)
    print_json({"name": name, "done": sentence}) if as_json else click.echo(sentence)
    return 0


@click.command(short_help="end a job in a cluster")
@click.argument("name")
@_in_cluster
@_on_emr
@options()
def cancel(name: str, namespace: str | None, context: str | None, as_json: bool, **flags: Any) -> int:
    """End the job NAME, and wait until its pods are gone. Committed results are kept.

    \b
    Example:
      orchard cancel orchard
    """
    place = _place(flags)
    settings_from(flags)
    if place:
        sentence = place.cancel(name)
    else:
        from orchard.cluster import jobs
        from orchard.cluster.client import Cluster

        sentence = jobs.cancel(Cluster(context=context, namespace=namespace), name)
    print_json({"name": name, "done": sentence}) if as_json else click.echo(sentence)
    return 0


COMMANDS = (submit, status, logs, scale, retry, cancel)


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
    if found.servers is not None:
        lines.append(f"servers    {redacted(found.servers)}")
    if found.restarts is not None:
        lines.append(f"restarts   {found.restarts}")
    if found.seconds is not None:
        lines.append(f"seconds    {found.seconds:,.1f}")
    print_lines(*lines)
