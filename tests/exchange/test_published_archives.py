"""Published archives and directories: links, sizes, ends and bombs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from builders.published_files import refusal, write
from builders.published_samples import (
    FOLDER,
    TRAJECTORIES,
    lines,
    sample,
    tar_bytes,
    trajectory,
)

from holdfast.exchange.published import ImportProgress, import_into
from holdfast.exchange.published import files as published_files
from holdfast.records.errors import StudyError
from holdfast.store import Store


@pytest.mark.parametrize("name", ["../../x.jsonl", f"{FOLDER}/../x.jsonl", "/etc/x.jsonl", "a\\..\\x"])
def test_a_name_that_leaves_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, {**sample(), name: b"x"})
    assert f"entry {name!r}: the name leaves the archive" in message
    assert not (tmp_path.parent / "x.jsonl").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("odd")
    member.type, member.linkname = kind, "/etc/passwd"
    message = refusal(tmp_path, {**sample(), "odd": member})
    assert "entry 'odd': a link or device, not a plain file; make the archive anew" in message


def test_a_link_in_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "x.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(StudyError, match=r"entry 'study/x.jsonl': a link"):
        import_into(tmp_path / "study", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("files", [{}, {"README.md": b"hello"}])
def test_an_empty_archive_is_refused(tmp_path: Path, files: Any) -> None:
    message = refusal(tmp_path, files)
    assert f"set.tar.zst: no file of the published layout ({len(files)} others); expected raw_data_by_eval/" in message


def test_a_directory_in_another_layout_is_told_which_one_is_expected(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.jsonl").write_text("{}\n")
    with pytest.raises(
        StudyError, match=r"study: no file of the published layout \(1 others\); expected .*/AGENT/FILE"
    ):
        import_into(tmp_path / "study", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_without_a_line_are_refused(tmp_path: Path) -> None:
    assert "set.tar.zst: every file is empty" in refusal(tmp_path, dict.fromkeys(sample(), b""))


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "study" / TRAJECTORIES
    inner.parent.mkdir(parents=True)
    inner.write_bytes(sample()[TRAJECTORIES])
    scan = os.scandir

    def deny(path: Any) -> Any:
        if str(path) == str(inner.parent):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(PermissionError):
        import_into(tmp_path / "study", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("odd", ["a\nb.jsonl", "pipe.jsonl"])
def test_odd_files_in_a_directory_are_refused(tmp_path: Path, odd: str) -> None:
    folder = tmp_path / "study" / FOLDER
    folder.mkdir(parents=True)
    if odd.startswith("pipe"):
        os.mkfifo(folder / odd)
    else:
        (folder / odd).touch()
    with pytest.raises(StudyError, match=r"entry 'study/.*': (control characters in the name|not a plain file); "):
        import_into(tmp_path / "study", tmp_path / "run")


def test_a_damaged_header_does_not_end_the_archive(tmp_path: Path) -> None:
    whole = tar_bytes(sample())
    headers = [place for place in range(0, len(whole), 512) if whole[place + 257 : place + 262] == b"ustar"]
    assert len(headers) >= 3
    for place in headers:
        for byte in (0, 124, 130, 148, 156):
            damaged = bytearray(whole)
            damaged[place + byte] ^= 1
            source = tmp_path / "damaged.tar"
            source.write_bytes(damaged)
            with pytest.raises(StudyError, match="not a readable tar archive, or cut short"):
                import_into(source, tmp_path / "run")


def test_what_stands_after_the_end_of_an_archive_is_refused(tmp_path: Path) -> None:
    parts = [tar_bytes({name: data}) for name, data in sample().items()]
    source = tmp_path / "joined.tar"
    source.write_bytes(b"".join(parts))
    with pytest.raises(StudyError, match="more data after the end of the archive"):
        import_into(source, tmp_path / "run")


def test_a_size_below_zero_is_refused(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    source = tmp_path / "odd.tar"
    source.write_bytes(bytes(header) + tar_bytes(sample()))
    with pytest.raises(StudyError, match="entry 'x': a size below zero"):
        import_into(source, tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    ['{"a": 18446744073709551616}', '{"a": "\\ud800"}', '{"a": NaN}', '{"a": 1e999}', '{"a":' * 300 + "1" + "}" * 300],
)
def test_arguments_that_json_cannot_give_back_stay_text(tmp_path: Path, text: str) -> None:
    record = trajectory(3)
    record["intermediate_steps"][0][0][1] = text
    import_into(write(tmp_path, sample(trajectories=lines(record, trajectory(5)))), tmp_path / "run")
    with Store(tmp_path / "run") as store:
        first = next(store.trajectories())
    assert first.messages[0].tool_calls[0].arguments == {"_raw": text}


def test_a_line_in_a_file_of_another_range_is_refused(tmp_path: Path) -> None:
    other = TRAJECTORIES.replace("_r0-15_", "_r15-30_")
    message = refusal(tmp_path, {**sample(), other: sample()[TRAJECTORIES]})
    assert message.startswith(f"{other}:1: case_idx: expected an integer in 15-29 as the file name says, found 3")


def test_the_run_of_a_study_takes_no_import(tmp_path: Path) -> None:
    with Store.create(tmp_path / "study") as store, store.transaction():
        store.log.begin("f", "rollout", "rolling")
    with pytest.raises(StudyError, match="study: holds the run of a study; import into another directory"):
        import_into(write(tmp_path, sample()), tmp_path / "study")
    with Store(tmp_path / "study") as store:
        assert store.counts()["trajectories"] == 0


def test_an_import_that_is_killed_leaves_nothing_and_goes_through_again(tmp_path: Path) -> None:
    source = write(tmp_path, sample())
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom holdfast.exchange.published import import_into, reader\n"
        "reader._Import.store_scores = lambda *_: os.kill(os.getpid(), 9)\n"
        "import_into(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script, str(source), str(tmp_path / "run")], check=False)
        assert done.returncode == -9
        with Store(tmp_path / "run") as store:
            assert set(store.counts().values()) == {0}
    assert import_into(source, tmp_path / "run").new_scores == 4


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    records = [trajectory(number, log=random.Random(number).randbytes(40_000).hex()) for number in range(15)]
    source = write(tmp_path, {TRAJECTORIES: lines(*records)})
    script = (
        "import resource, sys\nfrom holdfast.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "sys.exit(main(['import', sys.argv[1], '-o', sys.argv[2], '--quiet']))\n"
    )
    for limit in (1_000, 100_000, 300_000):
        command = [sys.executable, "-c", script, str(source), str(tmp_path / "deep" / "run"), str(limit)]
        # A measurement of coverage would write files of its own, and meet the limit too.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("holdfast: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "deep").exists()


def test_a_bomb_is_refused_before_it_expands(tmp_path: Path) -> None:
    zeros = b"\0" * (40 * 2**20)
    source = write(tmp_path, {"a": zeros, "b": zeros, **sample()})
    assert source.stat().st_size < 100_000
    with pytest.raises(StudyError, match=r"set.tar.zst: expands beyond 100:1; unpack it"):
        import_into(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_files, "MAX_ENTRY_BYTES", 1000)
    assert "bytes, beyond 0 MiB; split or leave out the file" in refusal_only(tmp_path, {"a": b"x" * 1001})


def refusal_only(folder: Path, files: Any) -> str:
    with pytest.raises(StudyError) as caught:
        import_into(write(folder, files), folder / "run")
    assert not (folder / "run").exists()
    return str(caught.value)


def test_an_archive_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    plain = tar_bytes(sample())
    packed = zstandard.compress(plain)
    end = plain.rstrip(b"\0")
    # A tar ends with zero blocks; a cut within the last of them loses nothing.
    cuts = [
        (data, cut)
        for data, size in ((plain, len(end)), (packed, len(packed) - 1))
        for cut in range(1, size, size // 25)
    ]
    for number, (data, cut) in enumerate(cuts):
        source = tmp_path / f"cut{number}.tar{'' if data is plain else '.zst'}"
        source.write_bytes(data[:cut])
        with pytest.raises(StudyError, match=str(source)):
            import_into(source, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "data", "finding"),
    [
        ("x.tar.zst", b"hello", "not a readable"),
        ("x.tar", b"hello" * 500, "not a readable tar archive"),
        ("x.zip", b"PK", "unknown kind of file; give a .tar.zst or .tar archive"),
        ("missing.tar", None, "no such file or directory"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str, data: bytes | None, finding: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(StudyError, match=finding):
        import_into(tmp_path / name, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    plain = tar_bytes({TRAJECTORIES: lines(trajectory())})
    body = plain[: 512 * -(-len(plain.rstrip(b"\0")) // 512)]
    (tmp_path / "twice.tar").write_bytes(body + plain)
    with pytest.raises(StudyError, match="appears twice in the archive; leave one of the two out"):
        import_into(tmp_path / "twice.tar", tmp_path / "run")


def test_an_unwritable_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match=r"file/run: cannot write a run here .*; choose another output"):
        import_into(write(tmp_path, sample()), tmp_path / "file" / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(StudyError, match="not empty and holds no run; choose another output"):
        import_into(write(tmp_path, sample()), tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    def stop(_: ImportProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_into(write(tmp_path, sample()), tmp_path / "run", progress=stop)
    assert not (tmp_path / "run").exists()
