from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.fetch
from pipeline.fetch import fetch
from volumetric.cases import read_cases
from volumetric.errors import DownloadError, ManifestError, OutputError, UnreadableFileError
from volumetric.folds import group_folds

MANIFESTS = Path(__file__).parents[1] / "data_manifests"
HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "hippocampus"

NOISE = np.random.default_rng(0).bytes(30_000)
FILES = {
    "imagesTr/a.nii.gz": NOISE[:12_000],
    "imagesTr/b.nii.gz": NOISE[12_000:],
    "labelsTr/a.nii.gz": b"mask of a",
}
CSV = "id,image,mask\na,imagesTr/a.nii.gz,labelsTr/a.nii.gz\nb,imagesTr/b.nii.gz,\n"


@pytest.fixture(scope="module", autouse=True)
def no_waits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.fetch, "_WAITS_S", (0.0, 0.0))
        patch.setenv("no_proxy", "127.0.0.1")
        yield


# Archives


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], *extra: zipfile.ZipInfo) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
        for member in extra:
            file.writestr(member, "/etc/passwd")
    return buffer.getvalue()


def inside(folder: str, files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def tar_link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("Tiny/link")
    member.type, member.linkname = kind, "imagesTr/a.nii.gz"
    return member


def zip_link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("Tiny/link")
    member.external_attr = 0o120777 << 16
    return member


ARCHIVE = tar_of(inside("Tiny"))


def write_manifest(folder: Path, archive: bytes | None = ARCHIVE, *, url: str = "") -> Path:
    content: dict[str, object] = {"name": "tiny", "classes": {1: "one"}, "cases": "tiny.csv"}
    if archive is not None:
        content["archive"] = {
            "url": url or f"http://127.0.0.1:{closed_port()}/tiny.tar",
            "md5": hashlib.md5(archive).hexdigest(),
            "folder": "Tiny",
        }
    (folder / "tiny.csv").write_text(CSV)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def write_files(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# A server that misbehaves as told


class Server(ThreadingHTTPServer):
    daemon_threads = True
    body = ARCHIVE
    ranges = True
    says_length = True
    wrong_range = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []  # bytes after which the next replies are cut
        self.statuses: list[int] = []  # what the next replies answer instead
        self.asked: list[str | None] = []  # the Range of each request
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/tiny.tar?download=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        if asked is not None and server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.body):
                self.send_error(416)
                return
            start = start // 2 if server.wrong_range else start
            self.send_response(206)
            end = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        rest = server.body[start:]
        if server.says_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        sent = rest[: server.cuts.pop(0)] if server.cuts else rest
        self.wfile.write(sent)
        server.sent += len(sent)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        yield server


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The download


def test_download_is_unpacked_whole_and_leaves_nothing_beside(server: Server, tmp_path: Path):
    seen: list[tuple[int, int | None]] = []
    to = tmp_path / "deep" / "data"
    manifest = write_manifest(tmp_path, url=server.url)
    data = fetch(manifest, to=to, progress=lambda done, total: seen.append((done, total)))
    assert data == to / "Tiny"
    assert files_in(to) == inside("Tiny")
    assert seen[0] == (0, len(ARCHIVE))
    assert seen[-1] == (len(ARCHIVE), len(ARCHIVE))
    assert [path.name for path in to.iterdir()] == ["Tiny"]


def test_download_resumes_what_an_earlier_attempt_left(server: Server, tmp_path: Path):
    (tmp_path / "tiny.tar.part").write_bytes(ARCHIVE[:10_000])
    seen: list[tuple[int, int | None]] = []
    manifest = write_manifest(tmp_path, url=server.url)
    data = fetch(manifest, to=tmp_path, progress=lambda *step: seen.append(step))
    assert files_in(data) == FILES
    assert server.asked == ["bytes=10000-"]
    assert server.sent == len(ARCHIVE) - 10_000
    assert seen[0] == (10_000, len(ARCHIVE))


def test_download_starts_again_where_the_server_knows_no_ranges(server: Server, tmp_path: Path):
    server.ranges = False
    (tmp_path / "tiny.tar.part").write_bytes(b"x" * 10_000)
    data = fetch(write_manifest(tmp_path, url=server.url), to=tmp_path)
    assert files_in(data) == FILES
    assert server.sent == len(ARCHIVE)


def test_download_starts_again_when_another_range_is_sent(server: Server, tmp_path: Path):
    server.wrong_range = True
    (tmp_path / "tiny.tar.part").write_bytes(ARCHIVE[:10_000])
    assert files_in(fetch(write_manifest(tmp_path, url=server.url), to=tmp_path)) == FILES
    assert server.asked == ["bytes=10000-", None]


def test_download_without_a_stated_length(server: Server, tmp_path: Path):
    server.says_length = False
    seen: list[tuple[int, int | None]] = []
    manifest = write_manifest(tmp_path, url=server.url)
    data = fetch(manifest, to=tmp_path, progress=lambda *step: seen.append(step))
    assert files_in(data) == FILES
    assert seen[-1] == (len(ARCHIVE), None)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, len(ARCHIVE) // 6), max_size=5))
def test_cut_download_sends_no_byte_twice(cuts: list[int]):
    with running() as server, TemporaryDirectory() as folder:
        server.cuts = list(cuts)
        data = fetch(write_manifest(Path(folder), url=server.url), to=Path(folder))
        assert files_in(data) == FILES
        assert server.sent == len(ARCHIVE)
        assert len(server.asked) == len(cuts) + 1


def test_cut_download_without_ranges_ends(server: Server, tmp_path: Path):
    server.ranges, server.cuts = False, [9_000] * 50
    with pytest.raises(DownloadError, match="--from") as caught:
        fetch(write_manifest(tmp_path, url=server.url), to=tmp_path)
    assert caught.value.code == "download-interrupted"
    assert len(server.asked) <= 5
    assert (tmp_path / "tiny.tar.part").stat().st_size == 9_000
    server.cuts, server.ranges = [], True
    assert files_in(fetch(tmp_path / "tiny.yaml", to=tmp_path)) == FILES


def test_part_that_is_complete_needs_no_server(tmp_path: Path):
    (tmp_path / "tiny.tar.part").write_bytes(ARCHIVE)
    assert files_in(fetch(write_manifest(tmp_path), to=tmp_path)) == FILES


def test_part_as_long_as_the_file_but_wrong_is_removed(server: Server, tmp_path: Path):
    (tmp_path / "tiny.tar.part").write_bytes(b"x" * len(ARCHIVE))
    manifest = write_manifest(tmp_path, url=server.url)
    with pytest.raises(DownloadError) as caught:  # the server answers 416: it is complete
        fetch(manifest, to=tmp_path)
    assert caught.value.code == "checksum-mismatch"
    assert server.sent == 0
    assert files_in(fetch(manifest, to=tmp_path)) == FILES


def test_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path):
    server.body = ARCHIVE[:-1] + b"?"
    with pytest.raises(DownloadError) as caught:
        fetch(write_manifest(tmp_path, url=server.url), to=tmp_path)
    assert caught.value.code == "checksum-mismatch"
    assert hashlib.md5(ARCHIVE).hexdigest() in caught.value.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.csv", "tiny.yaml"]


def test_offline_names_the_way_out(tmp_path: Path):
    with pytest.raises(DownloadError) as caught:
        fetch(write_manifest(tmp_path), to=tmp_path)
    assert caught.value.code == "offline"
    assert "--from" in caught.value.remedy


def test_busy_server_is_asked_again(server: Server, tmp_path: Path):
    server.statuses = [503, 429]
    assert files_in(fetch(write_manifest(tmp_path, url=server.url), to=tmp_path)) == FILES


def test_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path):
    server.statuses = [404, 404]
    with pytest.raises(DownloadError, match="404") as caught:
        fetch(write_manifest(tmp_path, url=server.url), to=tmp_path)
    assert caught.value.code == "download-refused"
    assert len(server.asked) == 1


def test_fetching_again_downloads_nothing(server: Server, tmp_path: Path):
    manifest = write_manifest(tmp_path, url=server.url)
    data = fetch(manifest, to=tmp_path)
    (data / "imagesTr/b.nii.gz").write_bytes(b"mine")
    assert fetch(manifest, to=tmp_path) == data
    assert len(server.asked) == 1
    assert (data / "imagesTr/b.nii.gz").read_bytes() == b"mine"


def test_incomplete_target_is_left_alone(server: Server, tmp_path: Path):
    manifest = write_manifest(tmp_path, url=server.url)
    data = fetch(manifest, to=tmp_path)
    (data / "labelsTr/a.nii.gz").unlink()
    with pytest.raises(DownloadError, match="labelsTr/a") as caught:
        fetch(manifest, to=tmp_path)
    assert caught.value.code == "incomplete-data"
    assert len(server.asked) == 1
    assert len(files_in(data)) == 2


def test_target_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--to"):
        fetch(write_manifest(tmp_path), to=tmp_path / "file" / "data")


# Sources at hand


@pytest.mark.parametrize(
    "archive",
    [
        ARCHIVE,
        tar_of(inside("Tiny"), mode="w:gz"),
        zip_of(inside("Tiny")),
        tar_of(inside("Tiny") | {"Tiny/inner.zip": zip_of(FILES)}),
    ],
    ids=["tar", "tar.gz", "zip", "tar that ends with a zip"],
)
def test_local_archive_is_unpacked_and_kept(archive: bytes, tmp_path: Path):
    source = tmp_path / "whatever"
    source.write_bytes(archive)
    data = fetch(write_manifest(tmp_path, archive), to=tmp_path / "data", source=source)
    assert data == tmp_path / "data" / "Tiny"
    assert FILES.items() <= files_in(data).items()
    assert source.read_bytes() == archive


def test_local_archive_with_another_checksum_is_refused_and_kept(tmp_path: Path):
    source = tmp_path / "tiny.tar"
    source.write_bytes(ARCHIVE + b"?")
    with pytest.raises(DownloadError) as caught:
        fetch(write_manifest(tmp_path), to=tmp_path / "data", source=source)
    assert caught.value.code == "checksum-mismatch"
    assert source.exists()
    assert not (tmp_path / "data").exists()


def test_local_archive_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnreadableFileError):
        fetch(write_manifest(tmp_path), to=tmp_path, source=tmp_path / "none.tar")


@pytest.mark.parametrize("above", [False, True])
def test_complete_folder_is_returned_where_it_lies(above: bool, tmp_path: Path):
    folder = write_files(tmp_path / "mine" / "Tiny")
    source = folder.parent if above else folder
    assert fetch(write_manifest(tmp_path), to=tmp_path / "data", source=source) == folder
    assert not (tmp_path / "data").exists()


def test_incomplete_folder_is_refused(tmp_path: Path):
    folder = write_files(tmp_path / "mine")
    (folder / "imagesTr/b.nii.gz").unlink()
    with pytest.raises(DownloadError, match=r"lacks 1 of .* imagesTr/b\.nii\.gz") as caught:
        fetch(write_manifest(tmp_path), to=tmp_path, source=folder)
    assert caught.value.code == "incomplete-data"


def test_manifest_without_archive(tmp_path: Path):
    manifest = write_manifest(tmp_path, None)
    with pytest.raises(DownloadError, match="no archive") as caught:
        fetch(manifest, to=tmp_path)
    assert caught.value.code == "no-archive"
    folder = write_files(tmp_path / "mine")
    assert fetch(manifest, to=tmp_path, source=folder) == folder


# Archives not to be trusted

HARMFUL = {
    "tar traversal": tar_of(inside("Tiny") | {"Tiny/../../evil": b"x"}),
    "tar absolute": tar_of(inside("Tiny") | {"/tmp/evil": b"x"}),
    "tar symlink": tar_of(inside("Tiny"), tar_link(tarfile.SYMTYPE)),
    "tar hard link": tar_of(inside("Tiny"), tar_link(tarfile.LNKTYPE)),
    "tar device": tar_of(inside("Tiny"), tar_link(tarfile.CHRTYPE)),
    "zip traversal": zip_of(inside("Tiny") | {"Tiny/../../evil": b"x"}),
    "zip backslash": zip_of(inside("Tiny") | {"Tiny\\..\\..\\evil": b"x"}),
    "zip absolute": zip_of(inside("Tiny") | {"/tmp/evil": b"x"}),
    "zip drive": zip_of(inside("Tiny") | {"C:/evil": b"x"}),
    "zip symlink": zip_of(inside("Tiny"), zip_link()),
}


@pytest.mark.parametrize("archive", HARMFUL.values(), ids=HARMFUL)
def test_harmful_member_is_refused(archive: bytes, tmp_path: Path):
    (tmp_path / "source").write_bytes(archive)
    manifest = write_manifest(tmp_path, archive)
    with pytest.raises(DownloadError) as caught:
        fetch(manifest, to=tmp_path / "data", source=tmp_path / "source")
    assert caught.value.code == "unsafe-archive"
    assert files_in(tmp_path).keys() == {"source", "tiny.csv", "tiny.yaml"}
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_debris_of_macos_is_left_out(make, tmp_path: Path):
    archive = make(
        {"._Tiny": b"fork", "__MACOSX/Tiny/a": b"fork", "Tiny/imagesTr/._a.nii.gz": b"fork"}
        | inside("Tiny")
    )
    (tmp_path / "source").write_bytes(archive)
    data = fetch(write_manifest(tmp_path, archive), to=tmp_path, source=tmp_path / "source")
    assert files_in(data) == FILES


@pytest.mark.parametrize(
    "archive",
    [b"no archive at all", tar_of(inside("Tiny"), mode="w:gz")[:-2_000], zip_of(FILES)[:-30]],
    ids=["text", "cut tar.gz", "cut zip"],
)
def test_broken_archive_is_refused(archive: bytes, tmp_path: Path):
    (tmp_path / "source").write_bytes(archive)
    with pytest.raises(DownloadError) as caught:
        fetch(write_manifest(tmp_path, archive), to=tmp_path, source=tmp_path / "source")
    assert caught.value.code == "bad-archive"
    assert not (tmp_path / "Tiny").exists()


@pytest.mark.parametrize(
    "files",
    [inside("Other"), {"Tiny/imagesTr/a.nii.gz": b"", "Tiny/imagesTr/b.nii.gz": b""}],
    ids=["other folder", "no mask"],
)
def test_archive_that_lacks_files_leaves_no_folder(
    files: dict[str, bytes], server: Server, tmp_path: Path
):
    server.body = tar_of(files)
    manifest = write_manifest(tmp_path, server.body, url=server.url)
    for _ in range(2):  # the archive is kept: the manifest is wrong, not the download
        with pytest.raises(DownloadError) as caught:
            fetch(manifest, to=tmp_path)
        assert caught.value.code == "incomplete-data"
    assert not (tmp_path / "Tiny").exists()
    assert len(server.asked) == 1


# Manifests

GOOD = {"url": "https://example.org/a.tar", "md5": "0" * 32, "folder": "A"}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("[1, 2]", "the file"),
        ("", "the file"),
        ("name: x", "cases"),
        ("cases: [", "not YAML"),
        ({"url": "file:///etc/passwd"}, "archive.url"),
        ({"url": "http://"}, "archive.url"),
        ({"md5": "abc"}, "archive.md5"),
        ({"folder": "../up"}, "archive.folder"),
        ({"folder": "/abs"}, "archive.folder"),
        ({"folder": "."}, "archive.folder"),
        ({"sha256": "x"}, "archive.sha256"),
    ],
)
def test_bad_manifest_names_the_field(content: str | dict[str, str], where: str, tmp_path: Path):
    if isinstance(content, dict):
        content = yaml.safe_dump({"cases": "tiny.csv", "archive": GOOD | content})
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ManifestError, match=re.escape(where)):
        fetch(path, to=tmp_path)


def test_manifest_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnreadableFileError):
        fetch(tmp_path / "none.yaml", to=tmp_path)


def test_hippocampus_archive_is_the_one_of_monai():
    spec = importlib.util.find_spec("monai")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("monai is not installed")
    source = Path(spec.submodule_search_locations[0], "apps", "datasets.py").read_text()
    (decathlon,) = (
        node
        for node in ast.parse(source).body  # parsed, for importing it takes ten seconds
        if isinstance(node, ast.ClassDef) and node.name == "DecathlonDataset"
    )
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in decathlon.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    archive = yaml.safe_load((MANIFESTS / "hippocampus.yaml").read_text())["archive"]
    assert archive["url"] == tables["resource"]["Task04_Hippocampus"]
    assert archive["md5"] == tables["md5"]["Task04_Hippocampus"]


def test_hippocampus_readme_reproduces_its_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = (MANIFESTS / "hippocampus.csv").read_bytes()
    root = tmp_path / "Task04_Hippocampus"
    cases = read_cases(MANIFESTS / "hippocampus.csv", root=root)
    write_files(root, {f"imagesTr/{case.id}.nii.gz": b"" for case in cases})
    write_files(root, {"imagesTr/._hippocampus_001.nii.gz": b""})
    (tmp_path / "data_manifests").mkdir()
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (MANIFESTS / "README.md").read_text(), re.S)
    exec(snippet, {})
    assert (tmp_path / "data_manifests" / "hippocampus.csv").read_bytes() == written
    assert [case.fold for case in cases] == group_folds([case.id for case in cases])


def test_hippocampus_lists_every_labelled_case_of_the_real_folder(tmp_path: Path):
    if not HIPPOCAMPUS.is_dir():
        pytest.skip("the real data is not here")
    assert fetch(MANIFESTS / "hippocampus.yaml", to=tmp_path, source=HIPPOCAMPUS) == HIPPOCAMPUS
    cases = read_cases(MANIFESTS / "hippocampus.csv", root=HIPPOCAMPUS)
    on_disk = sorted(HIPPOCAMPUS.glob("imagesTr/hippocampus_*.nii.gz"))
    assert [case.image for case in cases] == on_disk
