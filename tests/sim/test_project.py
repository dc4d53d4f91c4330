"""What the project says of itself in several places agrees, and the set-up script explains what it lacks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim import tools
from lepton_sim.build import WAIVERS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_is_exact_and_locked():
    lock = (ROOT / "requirements.lock").read_text().lower().replace("_", "-").splitlines()
    direct = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for requirement in direct:
        assert requirement.lower().replace("_", "-") in lock, f"{requirement}: run sim/lock.py"
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lock if not line.startswith("#"))


def test_fusesoc_file_has_every_preset_and_the_version():
    text = (ROOT / "lepton.core").read_text()
    assert f"name: lepton:npu:core:{PROJECT['version']}\n" in text
    assert set(re.findall(r"rtl/lepton_npu_(\w+)\.sv", text)) == set(PRESETS)


def test_every_waiver_has_a_reason():
    """A line of the waiver file follows a comment, or another waiver that has one."""
    previous = ""
    for line in WAIVERS.read_text().splitlines()[1:]:
        if line.startswith("lint_off"):
            assert previous.startswith(("//", "lint_off")), line
        previous = line


def _imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return names


@pytest.mark.parametrize(
    ("folder", "others"), [("verif", "tests|bench"), ("sdk", "lepton_sim|lepton_verif|tests|bench")]
)
def test_model_and_sdk_know_only_the_definitions_of_the_gateware(folder, others):
    # The SDK's backends are the simulators; a module for each imports it, when it is asked for one.
    backends = {ROOT / "sdk" / "leptonaicsdk" / name for name in ("model.py", "rtl.py")}
    paths = [path for path in (ROOT / folder).rglob("*.py") if path not in backends]
    imports = {name: path for path in paths for name in _imports(path)}
    assert any(name.startswith("lepton_npu.spec") for name in imports)
    forbidden = re.compile(rf"lepton_npu(?!\.spec\b)|amaranth|({others})\b")
    assert not {name: str(path) for name, path in imports.items() if forbidden.match(name)}


def test_the_core_knows_nothing_of_what_checks_it():
    imports = {name for path in (ROOT / "gateware").rglob("*.py") for name in _imports(path)}
    assert not {name for name in imports if re.match(r"(formal|lepton_(verif|sim)|leptonaicsdk|tests|bench)\b", name)}


def test_make_help_names_every_target():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("venv", "sim", "test", "soak", "tables", "formal", "rtl", "lint", "synth", "bench", "docs", "clean"):
        assert f"make {target} " in text


def _setup(*words: str, path: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [shutil.which("bash") or "bash", str(ROOT / "sim" / "setup.sh"), *words],
        env={"PATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path):
    """A folder of programs with only what the script itself needs."""
    for name in ("dirname", "sh", "bash"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    return tmp_path


def test_missing_program_without_a_package_manager(path):
    done = _setup("icarus", path=path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "lepton: missing: iverilog. Install it with your system's package manager, then run make again."
    ]


def test_missing_program_without_permission(path):
    _program(path, "apt-get", "echo must not be called; exit 1")
    _program(path, "id", "echo 1000")
    done = _setup("icarus", "verilator", path=path)
    assert done.returncode == 1
    assert done.stderr == (
        "lepton: missing: iverilog g++ perl make. Install it with: sudo apt-get install iverilog g++ perl make\n"
    )


def test_missing_program_is_installed_when_allowed(path):
    _program(path, "apt-get", f'echo "$@" >> {path}/calls')
    _program(path, "id", "echo 0")
    done = _setup("icarus", path=path)
    assert (done.returncode, done.stdout) == (0, "lepton: installing the system package(s) iverilog\n")
    assert "install" in (path / "calls").read_text()
    assert "iverilog" in (path / "calls").read_text()


def test_python_too_old(path):
    _program(path, "python3", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = _setup("venv", str(path / "venv"), path=path)
    assert done.returncode == 1
    assert done.stderr.startswith("lepton: needs Python 3.11 or newer, found: Python 3.9.2.")


def test_a_missing_simulator_is_one_line(monkeypatch, tmp_path):
    tools.icarus_version.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    message = tools.missing("icarus")
    tools.icarus_version.cache_clear()
    assert message == "vvp is not installed; on Debian or Ubuntu: sudo apt-get install iverilog"
    with pytest.raises(ValueError, match="simulator must be verilator or icarus, not 'vcs'"):
        tools.check("vcs")


def test_two_processes_build_once(tmp_path):
    """Two processes that want the same new design at the same time: one entry, no error, both get it."""
    script = (
        "import lepton_sim; from tests.sim.skid import SkidBuffer; from lepton_npu.verilog import generate;"
        "print(lepton_sim.build(generate(SkidBuffer(5), 'racing')[0], 'racing', simulator='icarus').folder)"
    )
    environment = {**os.environ, "LEPTON_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(folders) == 1
    assert [item.name for item in tmp_path.iterdir() if item.is_dir()] == [Path(folders.pop()).name]
