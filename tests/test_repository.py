"""Lock files, set-up, CI, and what README and docs refer to."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from conftest import ROOT, run_command

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_files_have_hashes_and_no_addresses(lock):
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^--?(find-links|index|extra-index|f |i )", text, re.MULTILINE)
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    unhashed = [entry.split()[0] for entry in entries if entry.strip() and "--hash=sha256:" not in entry]
    assert not unhashed


def pins(name):
    lock = (ROOT / "requirements" / name).read_text()
    return set(re.findall(r"^([\w.\[\]-]+==[\w.]+)", lock, re.MULTILINE))


def test_development_lock_includes_the_runtime_lock():
    assert pins("lock.txt") <= pins("lock-dev.txt")


def test_oldest_lock_pins_the_lowest_supported_versions():
    """Check that `make test-oldest` tests the lower bounds in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tested = [name for name in extras if name not in ("slurm", "mlflow", "wandb")]
    requirements = [*project["dependencies"], *(each for name in tested for each in extras[name])]
    pinned = {pin.lower() for pin in pins("lock-oldest.txt")}
    for requirement in requirements:
        name, lowest = re.split("[>=]=", requirement.split(",")[0].lower())
        assert any(re.fullmatch(rf"{name}=={re.escape(lowest)}[.\d]*", pin) for pin in pinned), requirement


def test_gpu_requirements_list_the_dependencies_but_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements/gpu.in").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    needed = {requirement.split(";")[0].strip() for requirement in project["dependencies"]}
    images = {requirement for requirement in needed if requirement.startswith("torch")}
    later = {requirement for requirement in needed if "rc" in requirement}  # of Python 3.14
    assert needed - images - later <= {*listed}
    assert {*project["optional-dependencies"]["peers"]} <= {*listed}


PRINT_HELP = """
import os, runpy, sys
import torch

for script in sys.argv[1:]:
    if os.fork() == 0:
        sys.path[0], sys.argv = os.path.dirname(script), [script, "--help"]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)  # which is faster than to delete all modules
        os._exit(1)
    assert os.wait()[1] == 0, script
"""


@pytest.mark.medium
def test_every_benchmark_prints_help_without_installed_segkit(tmp_path):
    scripts = [str(file) for file in ROOT.glob("benchmarks/*.py") if "parse_args" in file.read_text()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", PRINT_HELP, *scripts]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(scripts) > 9


@pytest.mark.medium
@pytest.mark.parametrize("version", ["(3, 10)", "(3, 15)"])
def test_setup_rejects_unsupported_python_with_one_line(version, tmp_path):
    python = tmp_path / "python"
    pretend = f"import sys; sys.version_info = {version}; exec(sys.stdin.read())"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}"\n')
    python.chmod(0o755)
    command = ["sh", str(ROOT / "requirements" / "setup.sh"), str(python), "lock.txt", ".venv/stamp"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1
    assert "needs Python 3.11 to 3.14" in answer.stderr
    assert "make PYTHON=python3.12" in answer.stderr
    assert not (tmp_path / ".venv").exists()


def run_setup(folder, script, **variables):
    """Run setup.sh with a script in place of Python; return the last two lines that it wrote to ``calls``."""
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (folder / "lock.txt").touch()
    command = ["sh", str(ROOT / "requirements" / "setup.sh"), sys.executable, "lock.txt", "stamp"]
    kept = {key: value for key, value in os.environ.items() if "INDEX" not in key and "CERT" not in key}
    subprocess.run(command, cwd=folder, env=kept | variables, timeout=60, check=True)
    return [line.strip() for line in (folder / "calls").read_text().splitlines()[-2:]]


@pytest.mark.medium
def test_setup_uses_certificates_of_the_system(tmp_path):
    script = 'echo "$2 ${UV_SYSTEM_CERTS-} ${PIP_CERT-} ${SSL_CERT_FILE-}" >> calls'
    called = run_setup(tmp_path, script, SSL_CERT_FILE="company.pem")
    assert called == ["pip true company.pem company.pem", "uv true company.pem company.pem"]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PIP_INDEX_URL": "mine"}, "mine mine"),
        ({"UV_INDEX_URL": "mine"}, "mine  mine"),
        ({"CONFIGURED": "mine"}, "mine mine"),
        ({}, ""),
    ],
    ids=str,
)
def test_setup_passes_a_custom_index_to_pip_and_uv(variables, expected, tmp_path):
    script = '[ "$3" = config ] && { echo "${CONFIGURED-}"; exit; }\n'
    script += 'echo ${PIP_INDEX_URL-} "${UV_DEFAULT_INDEX-}" ${UV_INDEX_URL-} >> calls'
    assert run_setup(tmp_path, script, **variables) == [expected] * 2


def test_ci_runs_the_test_command_of_the_readme():
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make test" in commands
    assert "\nmake test " in (ROOT / "README.md").read_text()
    for line in commands:
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]
GROUPS = sorted({file.parent.relative_to(ROOT / "conf").as_posix() for file in ROOT.glob("conf/**/*.yaml")})


@pytest.mark.parametrize("page", CURRENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_tests_and_settings_named_on_pages_exist(page):
    """Check files, tests, make targets and choices of settings, except placeholders and a plug-in's."""
    text = page.read_text(encoding="utf-8")
    files = set(
        re.findall(r"\b(?:segkit|conf|tests|examples|docs)/[\w/.-]+\.(?:py|yaml|md|sbatch|png|jpg)\b", text)
    )
    placeholder = re.compile("NAME|DATA|MODEL")
    missing = {file for file in files if not placeholder.search(file) and not (ROOT / file).exists()}
    tests = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.glob("tests/*.py"))
    for name in set(re.findall(r"\btest_\w+\b", text)) - {"test_seg", "test_segpy"}:
        if f"def {name}(" not in tests and not (ROOT / f"tests/{name}.py").exists():
            missing.add(name)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing |= set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) - {*targets}
    for group, name in re.findall(rf"(?<![\w./])({'|'.join(GROUPS)})=([a-z]\w+)\b", text):
        is_example = name in ("sums", "pooled", "null", "none")
        if not is_example and not (ROOT / f"conf/{group}/{name}.yaml").exists():
            missing.add(f"{group}={name}")
    assert not missing


@pytest.mark.medium
def test_import_segkit_imports_no_torch_and_prints_nothing():
    code = "import sys, segkit; print([m for m in ('torch', 'hydra', 'cv2', 'numpy') if m in sys.modules])"
    answer = run_command("-c", code)
    assert answer.stdout == "[]\n"
    assert answer.stderr == ""
