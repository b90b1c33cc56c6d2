"""Offer the cores of this machine to the scheduler of another: ``make worker SCHEDULER=tcp://host:8786``.

One process a core, or ``UNMUTE_WORKERS``, computes for whoever uses that scheduler, until the scheduler ends or Ctrl-C.
The first of them have a GPU each, where there is one, and offer it as the resource ``GPU``.
"""

import asyncio
import logging
import sys

import dask
from distributed import Nanny

from lib.cluster_workers import SETTINGS, gpus_here, import_once, own_place, worker_options
from lib.errors import InputError
from lib.workers import core_count


async def offer(address: str, count: int, patience: float = 60.0) -> None:
    """Offer `count` processes to the scheduler at `address` and wait until it ends.

    Raises
    ------
    InputError
        If no scheduler answers for `patience` seconds.
    """
    gpus = gpus_here()
    quiet = {"local_directory": str(own_place()), "silence_logs": logging.CRITICAL}
    with dask.config.set({**SETTINGS, "distributed.comm.timeouts.connect": f"{patience}s"}):
        import_once()
        options = [worker_options(number, gpus, **quiet) for number in range(count)]
        nannies = [Nanny(address, death_timeout=patience, **one) for one in options]
        try:
            await asyncio.gather(*nannies)
        except (OSError, TimeoutError, RuntimeError) as error:
            raise InputError(
                f"no Dask scheduler answers at {address}; start one there with `.venv/bin/dask scheduler`, and let the "
                "firewall pass its port."
            ) from error
        on_gpu = min(count, len(gpus))
        print(f"{count} workers ({on_gpu} with a GPU) compute for {address}; Ctrl-C ends them", flush=True)
        await asyncio.gather(*(nanny.finished() for nanny in nannies))
        print("the scheduler has ended, and so have the workers", flush=True)


def main() -> None:
    """Join the scheduler that is named."""
    address = sys.argv[1] if len(sys.argv) == 2 else ""
    try:
        if not address.startswith(("tcp://", "tls://")):
            raise InputError("name the scheduler, for instance `make worker SCHEDULER=tcp://host:8786`.")
        asyncio.run(offer(address, core_count()))
    except InputError as error:
        sys.exit(f"make worker: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
