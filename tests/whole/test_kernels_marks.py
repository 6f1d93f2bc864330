"""Every test with a tolerance runs under all kernels: what is seen in its code, what is left out, and who tells."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kernels import ENVIRONMENTS, Outcome, environment, files_to_run, read_probe, spreads
from tolerances import LEFT_OUT, TESTS, allows_a_tolerance, names_of_tests, needs_kernels

# What a reader would look for, whatever stands around it.
WORDS = re.compile(r"approx\(|allclose\(|isclose\(|assert_close\(|almost_equal\(|gradcheck\(|\b[ar]tol=|\bEXACT\b")


@pytest.mark.parametrize(
    "code",
    [
        "assert x == pytest.approx(2)",
        "assert x == {'a': approx(2)}",
        "assert np.allclose(x, y)",
        "assert math.isclose(x, y)",
        "np.testing.assert_allclose(x, y)",
        "np.testing.assert_array_almost_equal(x, y)",
        "torch.testing.assert_close(x, y)",
        "assert torch.autograd.gradcheck(f, x)",
        "assert abs(x - y) < 0.05",
        "assert 0.05 >= abs(x - y)",
        "assert (x - y).abs().max() <= bound",
        "assert (x - y).norm() <= 1.5 * (z - y).norm()",
        "assert 0 <= np.abs(x - y).max() < bound",
        "assert gap(x, y) < 1e-4",
        "assert 1e-6 > gap(x, y)",
        "assert gap(x, y) < EXACT",
        "assert round(x, 6) == 0.333333",
        "assert all(apart([x], [y]) < bound for x, y in z)",
        "assert within(x, y)",
    ],
)
def test_forms_of_a_tolerance_are_seen(code: str) -> None:
    assert allows_a_tolerance(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "assert x == y",
        "assert torch.equal(x, y)",
        "assert abs(x - y) > 0.05",
        "assert (x - y).abs().max() >= 1e-3",
        "assert x < 0.05",
        "assert abs(x - y) <= 0",
        "assert round(x) == 3",
    ],
)
def test_what_is_exact_or_a_difference_is_not(code: str) -> None:
    assert not allows_a_tolerance(ast.parse(code))


def test_a_tolerance_is_seen_wherever_it_stands(tmp_path: Path) -> None:
    """In a helper, in a helper's helper, in a fixture, in a table of values and in a module of samples."""
    path = tmp_path / "test_made_up.py"
    path.write_text(
        """
import pytest
import rounding
from builders.verdict_samples import something
from no_skips import missing as absent

VALUES = [(1, pytest.approx(2.0)), (3, 4)]


def same(x, y):
    return abs(x - y) < 0.1


def close(x, y):
    assert same(x, y)


@pytest.fixture
def checked():
    close(1, 1)


class TestInside:
    def test_method(self):
        close(1, 1)


def test_helper():
    close(1, 1)


def test_fixture(checked):
    pass


@pytest.mark.usefixtures("checked")
def test_named_fixture():
    pass


@pytest.mark.parametrize(("x", "y"), VALUES)
def test_table(x, y):
    assert x == y


@pytest.mark.parametrize("x", [pytest.approx(2.0)])
def test_decorator(x):
    assert x == 2


def test_exact():
    assert 1 + 1 == 2
"""
    )
    seen = {name for name in names_of_tests(path) if needs_kernels(path, name)}
    assert seen == set(names_of_tests(path)) - {"test_exact"} and len(seen) == 6


def texts_of_tests(path: Path) -> dict[str, str]:
    """What stands in each test of a file, decorators left out."""
    text = path.read_text()
    lines = text.splitlines()
    tests = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    return {
        node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in tests if node.name[:5] == "test_"
    }


def test_no_test_with_a_word_of_tolerance_is_missed() -> None:
    """Read once more, as plain text: a test that has such a word in it is marked, or its file is left out."""
    for path in set(TESTS.glob("*/test_*.py")) - {Path(__file__)}:
        for name, text in texts_of_tests(path).items():
            assert not WORDS.search(text) or needs_kernels(path, name), f"{path.name}: {name}"


def test_the_mark_is_set_where_it_is_asked_for() -> None:
    """One file with tests of both sorts, one without a tolerance, and one that is left out."""
    files = [TESTS / "stats/test_stats_lines.py", TESTS / "whole/test_no_skips.py", TESTS / "runs/test_settings.py"]
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", "-m", "kernels", *map(str, files)]
    shown = subprocess.run(asked, cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout
    names = {line.partition("::")[2].partition("[")[0] for line in shown.splitlines() if "::" in line}
    assert names == {name for name in names_of_tests(files[0]) if needs_kernels(files[0], name)}
    assert any(needs_kernels(files[2], name) for name in names_of_tests(files[2]))


@pytest.mark.parametrize("place", LEFT_OUT)
def test_what_is_left_out_is_there_and_says_why(place: str) -> None:
    file, _, name = place.partition("::")
    [path] = TESTS.glob(f"*/{file}")
    assert not name or name in names_of_tests(path)
    assert len(LEFT_OUT[place].split()) > 3


def test_an_environment_is_what_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What chooses kernels is set here alone: machines may have set it already."""
    for name in ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "MKL_CBWR", "NPY_DISABLE_CPU_FEATURES"):
        monkeypatch.setenv(name, "other")
    assert len(ENVIRONMENTS) == 6 and {threads for threads, _ in ENVIRONMENTS.values()} == {1, 2}
    told = {name: environment(name) for name in ENVIRONMENTS}
    assert {one.get("ATEN_CPU_CAPABILITY") for one in told.values()} == {None, "avx2", "default"}
    assert {one.get("ONEDNN_MAX_CPU_ISA") for one in told.values()} == {None, "SSE41"}
    assert not any("other" in one.values() for one in told.values())
    assert told["unset-2"]["OMP_NUM_THREADS"] == "2" and told["unset-2"]["PATH"] == os.environ["PATH"]


def test_a_probe_tells_what_ran() -> None:
    told = read_probe(
        "onednn_verbose,v1,info,cpu,isa:Intel AVX2\n"
        "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx2,undef,src:bf16,,64x64,0.1\n"
        "MKL_VERBOSE oneMKL 2024.0 Product build 1 for Intel(R) 64 architecture Some processors, Lnx 2.60GHz\n"
        "MKL_VERBOSE SGEMM(N,N,64) 60us CNR:COMPATIBLE Dyn:1 FastMM:1\n"
        "torch AVX2\nthreads 1\nnumpy Haswell\nscipy Zen\n"
    )
    assert told == (
        "torch AVX2, 1 threads; oneDNN Intel AVX2: brg_matmul:avx2; MKL Intel(R) 64 architecture Some processors, "
        "CNR COMPATIBLE; OpenBLAS Haswell (numpy) and Zen (scipy)"
    )
    assert "oneDNN not used; MKL not used; OpenBLAS not found" in read_probe("torch DEFAULT\nthreads 2\n")


def test_the_largest_share_of_a_tolerance_is_told() -> None:
    def outcome(*notes: tuple[str, float, float]) -> Outcome:
        return Outcome(name="", kernels="", passed=True, summary="", output="", seconds=0, notes=list(notes))

    first, second = outcome(("a", 1.0, 4.0), ("b", 0.0, 1.0)), outcome(("a", 1.5, 8.0), ("a", 2.0, 4.0))
    assert spreads([first, second]) == [("a", 2.0, 4.0), ("b", 0.0, 1.0)]


def test_only_files_with_such_tests_are_run() -> None:
    names = {Path(path).name for path in files_to_run()}
    assert {"test_parts.py", "test_trl_parity.py", "test_stats_lines.py"} <= names
    assert not names & {"test_architecture.py", *LEFT_OUT}
