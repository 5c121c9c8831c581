"""Several machines meet at --dist-url, or are told why not."""

import socket
import threading
import time
from argparse import Namespace

import pytest

from kd2.distill import ConfigError
from kd2.engine.rendezvous import meeting_point, reach


def arguments(url: str = "auto", machines: int = 1, rank: int = 0) -> Namespace:
    return Namespace(num_machines=machines, machine_rank=rank, dist_url=url)


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def test_one_machine_needs_no_address():
    assert meeting_point(arguments()) is None


def test_an_address_is_host_and_port():
    assert meeting_point(arguments("tcp://first:29500", 2, 1)) == ("first", 29500)


@pytest.mark.parametrize(
    "url", ["auto", "tcp://first", "first:29500", "tcp://:29500", "tcp://first:99999", "tcp://[a:1"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="^--dist-url is .*, expected tcp://HOST:PORT"):
        meeting_point(arguments(url, 2, 1))


@pytest.mark.parametrize(("machines", "rank"), [(1, 1), (2, 2), (2, -1), (0, 0)])
def test_a_rank_that_no_machine_has_is_refused(machines, rank):
    with pytest.raises(ConfigError, match=f"^--machine-rank is {rank}, expected 0 to --num-machines - 1"):
        meeting_point(arguments("tcp://first:29500", machines, rank))


def test_the_first_machine_reaches_itself_and_leaves_the_port_free():
    port = free_port()
    reach(("localhost", port), 0)
    reach(("localhost", port), 0)


def test_a_port_in_use_is_told():
    with socket.create_server(("", 0)) as server:
        with pytest.raises(ConfigError, match="this machine, of --machine-rank 0, cannot be called so: .*in use"):
            reach(("localhost", server.getsockname()[1]), 0)


def test_a_name_of_another_machine_is_told():
    with pytest.raises(ConfigError, match="^--dist-url tcp://nowhere.invalid:[0-9]+: this machine"):
        reach(("nowhere.invalid", free_port()), 0)


def test_nobody_there_ends_the_wait():
    start = time.monotonic()
    with pytest.raises(ConfigError, match="^--dist-url tcp://localhost:[0-9]+: nobody has answered for 0.2 seconds"):
        reach(("localhost", free_port()), 1, patience=0.2)
    assert time.monotonic() - start < 5


def test_a_first_machine_that_starts_later_is_found():
    port = free_port()

    def answer() -> None:
        time.sleep(0.3)
        with socket.create_server(("localhost", port)) as server:
            server.accept()

    thread = threading.Thread(target=answer)
    thread.start()
    reach(("localhost", port), 1, patience=10)
    thread.join()
