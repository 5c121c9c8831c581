"""Two servers on this machine; nothing else is reached."""

import hashlib
import http.server
import pathlib
import pickle
import re
import threading
import urllib.request

import numpy as np
import pytest
import torch

from kd2 import cli
from kd2.distill import ConfigError
from kd2.engine.weights.checkpoint import read_weights
from kd2.engine.weights.fetch import Fetched, fetch, local_file
from kd2.engine.weights.names import torchvision_weights


class Server:
    """Answers every address with ``content``, announced as ``missing`` bytes more of a ``kind``; ``asked`` counts."""

    def __init__(self, content: bytes):
        self.content, self.asked, self.missing, self.kind = content, 0, 0, "application/octet-stream"
        parent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                parent.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(parent.content) + parent.missing))
                self.send_header("Content-Type", parent.kind)
                self.end_headers()
                self.wfile.write(parent.content)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Starts servers; fetched files lie below a folder of this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))
    started = []

    def start(content: bytes) -> Server:
        started.append(Server(content))
        return started[-1]

    yield start
    for server in started:
        server.http.shutdown()


def test_addresses_that_end_in_one_name_stay_two_files(serve, tmp_path):
    for i, server in enumerate((serve(b""), serve(b""))):
        torch.save({"x": torch.full((1,), float(i))}, tmp_path / "x.pth")
        server.content = (tmp_path / "x.pth").read_bytes()
        assert read_weights(f"{server.address}/same/model.pth", "KEY")["x"].item() == i


def test_addresses_that_differ_in_their_query_stay_two_files(serve):
    server = serve(b"x")
    assert local_file(f"{server.address}/a.pth?v=1", "KEY") != local_file(f"{server.address}/a.pth?v=2", "KEY")


def test_an_address_is_fetched_once(serve):
    server = serve(b"content")
    first, second = (local_file(f"{server.address}/a.pth", "KEY") for _ in range(2))
    assert first == second and server.asked == 1
    assert pathlib.Path(first).read_bytes() == b"content"


def test_the_sha256_in_a_name_is_checked(serve, tmp_path):
    server = serve(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    local_file(f"{server.address}/model-{digest[:8]}.pth", "KEY")
    with pytest.raises(
        ConfigError, match=r"^KEY: .*model-0123abcd.pth is damaged or another file: its SHA-256 begins "
    ):
        local_file(f"{server.address}/model-0123abcd.pth", "KEY")
    assert len(list((tmp_path / "torch").rglob("*"))) == 3  # two folders and the good file


def test_a_file_that_ends_too_early_is_not_kept(serve, tmp_path):
    server = serve(b"content")
    server.missing = 5
    with pytest.raises(ConfigError, match=r"^KEY: .*/a.pth ended behind 7 of 12 bytes; try again"):
        local_file(f"{server.address}/a.pth", "KEY")
    with pytest.raises(ConfigError, match=r"^NAME: .*/a.pth ended behind 7 of 12 bytes"):
        fetch([f"{server.address}/a.pth"], str(tmp_path / "to"))
    server.missing = 0
    assert pathlib.Path(local_file(f"{server.address}/a.pth", "KEY")).read_bytes() == b"content"
    assert not list(tmp_path.rglob("*.part"))


def test_a_page_is_no_file_of_weights(serve):
    server = serve(b"<html>please log in</html>")
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ConfigError, match=r"^KEY: .*/a.pth is a page \(text/html\), expected a file of weights"):
        local_file(f"{server.address}/a.pth", "KEY")


def test_a_date_in_a_name_is_no_sha256(serve):
    local_file(f"{serve(b'content').address}/model-20240115.pth", "KEY")


@pytest.mark.parametrize("name", ["/", "/..", "/a/../../b", "/%2e%2e/x", ""])
def test_no_address_leads_out_of_the_folder_of_fetched_files(serve, tmp_path, name):
    kept = local_file(f"{serve(b'x').address}{name}", "KEY")
    assert pathlib.Path(kept).parent == tmp_path / "torch" / "hub" / "kd2"


@pytest.mark.parametrize("name", ["ftp://host/a.pth", "file:///etc/passwd", "s3://bucket/a.pth"])
def test_other_schemes_are_refused(name):
    with pytest.raises(ConfigError, match="^KEY: .* is no address, expected one that begins with https"):
        local_file(name, "KEY")


def test_a_server_that_is_not_there_is_named(serve):
    with pytest.raises(ConfigError, match=r"^KEY: http://127.0.0.1:9/a.pth could not be fetched: .*refused"):
        local_file("http://127.0.0.1:9/a.pth", "KEY")


def test_an_address_that_is_none_is_named(serve):
    with pytest.raises(ConfigError, match="^KEY: http://.* could not be fetched"):
        local_file("http://[broken/a.pth", "KEY")


def test_what_the_libraries_keep_of_their_own_files_is_used(serve, tmp_path):
    ours = tmp_path / "fvcore" / "detectron2" / "a.pkl"
    theirs = tmp_path / "torch" / "hub" / "checkpoints" / "resnet-0123abcd.pth"
    for path in (ours, theirs):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    assert local_file("https://dl.fbaipublicfiles.com/detectron2/a.pkl", "KEY") == str(ours)
    assert local_file("https://download.pytorch.org/models/resnet-0123abcd.pth", "KEY") == str(theirs)


def test_what_a_library_keeps_under_a_name_is_not_taken_for_another_address(serve, tmp_path):
    server = serve(b"right")
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "a.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"wrong")
    assert pathlib.Path(local_file(f"{server.address}/a.pth", "KEY")).read_bytes() == b"right"


ZOO = "COCO-Detection/retinanet_R_101_FPN_3x.yaml"
ZOO_FILE = "dl.fbaipublicfiles.com/detectron2/COCO-Detection/retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl"


@pytest.fixture
def publish(serve, monkeypatch):
    """Starts a server in the place of every other one; nothing else is reached."""

    def start(content: bytes) -> Server:
        server, opened = serve(content), urllib.request.urlopen
        monkeypatch.setattr(
            urllib.request,
            "urlopen",
            lambda request, **more: opened(re.sub(r"^https?://[^/]*", server.address, request.full_url), **more),
        )
        return server

    return start


def zoo_pickle(**arrays: np.ndarray) -> bytes:
    """A file of Detectron2's zoo."""
    return pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2)


def test_a_fetched_file_is_told_with_address_digest_size_and_license(publish, tmp_path):
    content = zoo_pickle(x=np.ones(2, np.float32))
    publish(content)
    assert fetch([ZOO], str(tmp_path / "weights")) == [
        Fetched(
            ZOO,
            f"https://{ZOO_FILE}",
            str(tmp_path / "weights" / ZOO_FILE),
            len(content),
            hashlib.sha256(content).hexdigest(),
            "CC BY-SA 3.0 (Detectron2's MODEL_ZOO.md)",
        )
    ]


def test_the_same_name_reads_the_fetched_file_without_a_network(publish, tmp_path, monkeypatch):
    server = publish(zoo_pickle(x=np.full(2, 3.0, np.float32)))
    fetch([ZOO], str(tmp_path / "weights"))
    server.http.shutdown()
    monkeypatch.setenv("KD2_WEIGHTS", str(tmp_path / "weights"))
    assert read_weights(ZOO, "KEY")["x"].tolist() == [3, 3]
    assert server.asked == 1


def test_what_is_there_is_not_fetched_again(publish, tmp_path):
    server = publish(b"content")
    for _ in range(2):
        fetch([ZOO], str(tmp_path))
    assert server.asked == 1


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (
            "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
            "dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        ),
        ("timm://test_resnet.r160_in1k", "huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"),
    ],
)
def test_every_kind_of_name_has_its_place(publish, tmp_path, name, file):
    publish(b"content")
    assert fetch([name], str(tmp_path))[0].path == str(tmp_path / file)


def test_the_sha256_in_a_published_name_is_checked(publish, tmp_path):
    publish(b"something else")
    with pytest.raises(
        ConfigError, match=r"^NAME: https://.*-[0-9a-f]{8}.pth is damaged or another file: its SHA-256 begins"
    ):
        fetch(["torchvision://ssdlite320_mobilenet_v3_large/COCO_V1"], str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "torch" not in path.parts]


def test_a_damaged_file_that_is_there_is_told(publish, tmp_path):
    publish(b"something else")
    name = "torchvision://ssdlite320_mobilenet_v3_large/COCO_V1"
    kept = tmp_path / torchvision_weights(name, "KEY").url.removeprefix("https://")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half of it")
    with pytest.raises(
        ConfigError, match=r"^NAME: .*\.pth is damaged or another file: its SHA-256 begins with [0-9a-f]{8}, e"
    ):
        fetch([name], str(tmp_path))
    assert kept.read_bytes() == b"half of it"


def test_a_file_of_timm_is_read(publish):
    safetensors = pytest.importorskip("safetensors.torch", reason="comes with timm")
    publish(safetensors.save({"conv.weight": torch.full((2,), 5.0)}))
    assert read_weights("timm://test_resnet.r160_in1k", "KEY")["conv.weight"].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.pth", "NAME: model.pth is a path, expected the name or the address of published weights"),
        (
            "COCO-Detection/retinanet_R_101_FPN_9x.yaml",
            "NAME: the zoo has no weights of 'COCO-Detection/retinanet_R_10",
        ),
        ("torchvision://resnet51", "NAME: torchvision has no 'resnet51'; did you mean resnet50"),
        ("timm://resnet50.nothing", "NAME: timm has no weights of 'resnet50.nothing'; did you mean resnet50."),
        ("ftp://a/b.pth", "NAME: ftp://a/b.pth is no address, expected one that begins with https:// or http://"),
    ],
)
def test_what_is_no_name_is_refused(tmp_path, name, text):
    with pytest.raises(ConfigError) as caught:
        fetch([name], str(tmp_path))
    assert str(caught.value).startswith(text)


def test_the_command_prints_a_row_a_file(publish, tmp_path, capsys):
    publish(b"content")
    cli.run_fetch(cli.fetch_parser().parse_args([ZOO, "--to", str(tmp_path)]))
    row = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")[1:-1]]
    assert row[:3] == [ZOO, "7", hashlib.sha256(b"content").hexdigest()]


@pytest.mark.parametrize("best", [True, False])
def test_the_folder_of_a_run_stands_for_its_best_or_final_checkpoint(tmp_path, best):
    torch.save({"x": torch.zeros(1)}, tmp_path / "model_final.pth")
    if best:
        torch.save({"x": torch.ones(1)}, tmp_path / "model_best.pth")
    assert read_weights(str(tmp_path), "KEY")["x"].item() == best


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^KEY: no file .*model_final.pth"):
        local_file(str(tmp_path), "KEY")


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_fetched(tmp_path):
    (tmp_path / "weights").touch()
    with pytest.raises(ConfigError, match="--to '.*weights' is not writable: File exists"):
        fetch(["https://example.invalid/x.pth"], str(tmp_path / "weights"))
