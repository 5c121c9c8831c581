"""Where the processes of several machines meet: ``--dist-url``, looked at before a framework waits for half an hour."""

import logging
import socket
import time
from argparse import Namespace
from urllib.parse import urlparse

from kd2.distill import ConfigError

logger = logging.getLogger(__name__)

# Seconds that the other machines wait for the first one, which may still be starting.
PATIENCE = 300.0


def meeting_point(args: Namespace) -> tuple[str, int] | None:
    """Host and port of ``--dist-url``; None for ``auto``, a free port of this one machine.

    Args:
        args: num_machines, machine_rank, dist_url of the command line.

    Raises:
        ConfigError: numbers that no machine has; no address where several machines need one.
    """
    if args.num_machines < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise ConfigError(
            f"--machine-rank is {args.machine_rank}, expected 0 to --num-machines - 1, of {args.num_machines} machines"
        )
    if args.dist_url == "auto" and args.num_machines == 1:
        return None
    try:
        url = urlparse(args.dist_url)
        host, port = url.hostname, url.port
    except ValueError:  # a port that is none
        url, host, port = None, None, None
    if url is None or url.scheme != "tcp" or not host or not port:
        raise ConfigError(f"--dist-url is {args.dist_url!r}, expected tcp://HOST:PORT for several machines")
    return host, port


def reach(point: tuple[str, int], rank: int, patience: float = PATIENCE) -> None:
    """Make sure that the machine ``rank`` can meet the others at ``point``.

    The first machine opens the port for a moment and calls itself by its name; the others wait until it answers.

    Raises:
        ConfigError: the first machine cannot be called so, or nobody answers for ``patience`` seconds.
    """
    where = f"--dist-url tcp://{point[0]}:{point[1]}"
    if rank == 0:
        try:
            with socket.create_server(("", point[1])):
                socket.create_connection(point, timeout=10).close()
        except OSError as error:
            raise ConfigError(f"{where}: this machine, of --machine-rank 0, cannot be called so: {error}") from None
        return
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection(point, timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(f"{where}: nobody has answered for {patience:g} seconds: {error}") from None
        time.sleep(min(1.0, patience))
