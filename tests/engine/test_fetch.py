"""Two servers on this machine; nothing else is reached."""

import hashlib
import http.server
import pathlib
import threading

import pytest
import torch

from kd2.distill import ConfigError
from kd2.engine.checkpoint import read_weights
from kd2.engine.fetch import local_file


class Server:
    """Answers every address with ``content``; ``asked`` counts."""

    def __init__(self, content: bytes):
        self.content, self.asked = content, 0
        parent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                parent.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(parent.content)))
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
    with pytest.raises(ConfigError, match=r"^KEY: .*model-0123abcd.pth could not be fetched: invalid hash value"):
        local_file(f"{server.address}/model-0123abcd.pth", "KEY")
    assert len(list((tmp_path / "torch").rglob("*"))) == 3  # two folders and the good file


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
