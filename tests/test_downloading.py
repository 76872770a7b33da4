"""Downloads from servers that break off, refuse or change a file: what came is kept, and never mixed."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from listing import one_line
from web_server import BIG, Web

from aigc_tasks.acquire import downloading, remote
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_after_broken_connections(web: Web, tmp_path: Path, ranges: bool) -> None:
    web.files, web.breaks, web.ranges = {"/a b.bin": BIG}, 3, ranges
    path = downloading.download(f"{web.url}/a%20b.bin", tmp_path)
    assert path == tmp_path / "a b.bin"
    assert path.read_bytes() == BIG
    assert not list(tmp_path.glob("*.part"))
    starts = [int(asked[len("bytes=") : -1]) if asked else 0 for _, _, asked in web.asked]
    assert len(starts) == 4
    # What came before a connection broke is not asked for again, but for what was still on its way to the file.
    assert not ranges or (starts == sorted(starts) and starts[-1] > 0)


def test_a_connection_that_never_holds_ends_in_one_line(web: Web, tmp_path: Path) -> None:
    web.files, web.breaks, web.ranges = {"/a.bin": BIG}, 1000, False
    with pytest.raises(UserError) as error:
        downloading.download(f"{web.url}/a.bin", tmp_path)
    assert "broke off" in one_line(error)
    assert not (tmp_path / "a.bin").exists()


def test_progress_counts_more_than_tries(web: Web, tmp_path: Path) -> None:
    web.files, web.breaks = {"/a.bin": BIG}, 9  # each brings half of the rest
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(web: Web, tmp_path: Path) -> None:
    web.files, web.refusals = {"/a.bin": b"abc"}, 3
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == b"abc"
    assert web.count("GET") == 4
    with pytest.raises(UserError) as error:
        downloading.download(f"{web.url}/b.bin", tmp_path)
    assert "404" in one_line(error)
    assert web.count("GET") == 5


def test_what_is_here_is_not_fetched_again_unless_it_changed(web: Web, tmp_path: Path) -> None:
    web.files = {"/a.bin": BIG}
    url, md5 = f"{web.url}/a.bin", hashlib.md5(BIG).hexdigest()
    downloading.download(url, tmp_path, md5=md5)
    assert len(web.asked) == 1
    downloading.download(url, tmp_path, md5=md5.upper())
    assert len(web.asked) == 1  # the checksum tells
    before = (tmp_path / "a.bin").stat().st_ino
    downloading.download(url, tmp_path)
    assert (tmp_path / "a.bin").stat().st_ino == before  # the version tells
    web.files["/a.bin"], web.version = BIG[::-1], "2"
    assert downloading.download(url, tmp_path).read_bytes() == BIG[::-1]


def test_of_a_server_that_tells_nothing_the_same_bytes_are_the_same_file(web: Web, tmp_path: Path) -> None:
    """What was listed of it holds, though it has to be fetched each time."""
    web.files, web.version, web.lengths, web.ranges = {"/a.bin": BIG}, None, False, False
    place = downloading.download(f"{web.url}/a.bin", tmp_path)
    before = place.stat()
    assert downloading.download(f"{web.url}/a.bin", tmp_path).stat().st_ctime_ns == before.st_ctime_ns
    web.files["/a.bin"] = BIG[::-1]
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG[::-1]
    assert not list(tmp_path.glob("*.part"))


def test_a_file_that_changes_during_the_download_is_not_mixed(web: Web, tmp_path: Path) -> None:
    web.files, web.breaks, web.ranges = {"/a.bin": BIG}, 1000, False
    with pytest.raises(UserError):
        downloading.download(f"{web.url}/a.bin", tmp_path)
    assert 0 < (tmp_path / "a.bin.part").stat().st_size < len(BIG)
    web.files, web.breaks, web.ranges, web.version = {"/a.bin": BIG[::-1]}, 0, True, "2"
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG[::-1]
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.part")
    web.files["/a.bin"], web.version = b"short", "3"  # the range lies behind its end now
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == b"short"


def test_a_wrong_checksum_leaves_no_file(web: Web, tmp_path: Path) -> None:
    web.files = {"/a.bin": b"abc"}
    with pytest.raises(UserError, match=r"its sha256 is ba7816bf.*, not 0000"):
        downloading.download(f"{web.url}/a.bin", tmp_path, sha256="0" * 64)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_a_killed_download_goes_on_where_it_was(web: Web, tmp_path: Path) -> None:
    web.files, web.pace = {"/a.bin": BIG}, 0.05
    code = "import sys; from pathlib import Path; from aigc_tasks.acquire.downloading import download; "
    code += "download(sys.argv[1], Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, f"{web.url}/a.bin", str(tmp_path)])
    part = tmp_path / "a.bin.part"
    while not part.exists() or part.stat().st_size < 500_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had = part.stat().st_size
    assert had < len(BIG)
    assert not (tmp_path / "a.bin").exists()
    web.pace, web.asked = 0, []
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG
    assert web.asked == [("GET", "/a.bin", f"bytes={had - 1}-")]


def test_local_files_and_their_errors(tmp_path: Path) -> None:
    place = tmp_path / "a b" / "ü.bin"
    place.parent.mkdir()
    place.write_bytes(BIG)
    assert downloading.download(place.as_uri(), tmp_path / "into").read_bytes() == BIG
    assert remote.read(place.as_uri(), 64 << 20) == BIG
    with pytest.raises(UserError) as error:
        downloading.download(place.with_name("none").as_uri(), tmp_path)
    assert "no such file" in one_line(error)
