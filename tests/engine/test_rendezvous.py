"""What a launcher says of the processes; several machines meet at --dist-url, or are told why not."""

import os
import socket
import threading
import time
from argparse import Namespace

import pytest

from kd2.distill import ConfigError
from kd2.engine.rendezvous import Started, meeting_point, reach, started

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
TORCHRUN |= {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu-a[03,07-09]-ib,x1"}
SRUN |= {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "123456"}


def arguments(url: str = "auto", machines: int = 1, rank: int = 0, gpus: int = 1) -> Namespace:
    return Namespace(num_gpus=gpus, num_machines=machines, machine_rank=rank, dist_url=url)


@pytest.fixture
def variables(monkeypatch):
    """Sets variables of the environment for one test; what srun's become is taken back too."""

    def put(found: dict[str, str]) -> None:
        for name in {*TORCHRUN, *SRUN, "GROUP_RANK"}:
            monkeypatch.setenv(name, "")  # noted, whatever it is
            monkeypatch.delenv(name)
        for name, value in found.items():
            monkeypatch.setenv(name, value)

    return put


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def test_without_a_launcher_the_command_starts_its_processes(variables):
    variables({})
    assert started(arguments()) is None


def test_torchrun_says_who_this_process_is(variables):
    variables(TORCHRUN)
    assert started(arguments()) == Started(rank=5, size=8, local_rank=1, local_size=4)


def test_srun_says_it_in_its_own_words(variables):
    variables(SRUN)
    assert started(arguments()) == Started(rank=5, size=8, local_rank=1, local_size=4)


def test_its_tasks_meet_at_the_first_machine_of_the_list(variables):
    variables(SRUN)
    started(arguments())
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu-a03-ib", "18456")


def test_the_steps_of_one_job_meet_at_ports_of_their_own(variables, monkeypatch):
    ports = []
    for step in ("0", "1"):
        variables(SRUN)
        monkeypatch.setenv("SLURM_STEP_ID", step)
        started(arguments())
        ports.append(os.environ["MASTER_PORT"])
    assert ports == ["18456", "18955"]


def test_torchrun_below_srun_counts(variables):
    variables(SRUN | TORCHRUN | {"RANK": "6", "LOCAL_RANK": "2"})
    assert started(arguments()).rank == 6


@pytest.mark.parametrize("found", [{"SLURM_STEP_NUM_TASKS": "1"}, {}])
def test_one_task_is_a_process_as_any_other(variables, found):
    variables({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", **found})
    assert started(arguments()) is None


def test_a_task_a_machine_may_start_the_processes_of_its_gpus(variables):
    variables(SRUN)
    assert started(arguments("tcp://first:29500", 2, 1, gpus=8)) is None


@pytest.mark.parametrize("given", [{"gpus": 8}, {"machines": 2}, {"url": "tcp://first:1"}])
def test_arguments_that_contradict_torchrun_are_refused(variables, given):
    variables(TORCHRUN)
    with pytest.raises(ConfigError, match="but torchrun started 4 processes a machine: leave them out$"):
        started(arguments(**given))


def test_tasks_that_are_dealt_out_in_turns_are_refused(variables):
    variables(SRUN | {"SLURM_PROCID": "3"})
    with pytest.raises(ConfigError, match="^rank 3 of 8 is number 1 of 4 on its machine; .*--distribution=block$"):
        started(arguments())


def test_a_variable_that_is_missing_is_named(variables):
    variables({name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"})
    with pytest.raises(ConfigError, match="^the launcher gave no usable variables of its processes: 'SLURM_LOCALID'$"):
        started(arguments())


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
