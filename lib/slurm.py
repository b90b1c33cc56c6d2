"""Workers in jobs of Slurm, by dask-jobqueue: what a job is comes from its own file, what a worker is from here."""

import logging
import os

import dask
from dask_jobqueue import SLURMCluster

from lib.cluster_workers import SETTINGS
from lib.errors import InputError
from lib.paths import REPOSITORY


def slurm_cluster() -> tuple[SLURMCluster, int]:
    """Return a cluster of Slurm jobs, none submitted yet, and the processes of a job: one a core, of one thread.

    Raises
    ------
    InputError
        If its file says too little, or something that cannot be.
    """
    options = dask.config.get("jobqueue.slurm", {})
    if not options.get("cores") or not options.get("memory"):
        raise InputError(
            "SCHEDULER=slurm needs at least 'cores' and 'memory' of a job below jobqueue: slurm: in the file "
            "~/.config/dask/jobqueue.yaml (see jobqueue.dask.org)."
        )
    off = {key: value for key, value in SETTINGS.items() if key.startswith("distributed.worker") and value is False}
    variables = {"DASK_" + key.upper().replace(".", "__").replace("-", "_"): "False" for key in off}
    variables |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ours = {name: value for name, value in os.environ.items() if name.startswith("UNMUTE_")}
    variables |= {name: value for name, value in ours.items() if name != "UNMUTE_WORKERS"}  # which is of all jobs
    prologue = [f"export {name}='{value}'" for name, value in variables.items()]
    try:
        cluster = SLURMCluster(
            processes=options["cores"],
            job_script_prologue=[*(options.get("job-script-prologue") or []), *prologue],
            worker_extra_args=[*(options.get("worker-extra-args") or []), "--no-dashboard"],
            scheduler_options={"dashboard_address": "127.0.0.1:0", **(options.get("scheduler-options") or {})},
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"Slurm cannot be used ({str(error).splitlines()[0]}); see jobqueue.dask.org.") from error
    return cluster, options["cores"]
