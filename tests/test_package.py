"""The wheel and source archive, and the commands of an installation."""

import configparser
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import segkit
from conftest import ROOT

pytestmark = pytest.mark.medium

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SIZES = "data.size=32 data.val_scenes=4 augment.crop_size=32 model.backbone.width=8 model.head.width=16"
LENGTH = (
    "schedule.iterations=2 schedule.batch_size=2 schedule.lr_schedule.warmup_iterations=0 evaluation.every=2"
)
SMALL = f"experiment=demo {SIZES} {LENGTH} loader.workers=1 run_name=far device=cpu".split()


def build(where, output, *kinds):
    """The archives of a folder, by hatchling's own hooks: nothing is fetched."""
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(output)]
    words += [word for kind in kinds for word in ("-t", kind)]
    subprocess.run(words, cwd=where, check=True, capture_output=True, timeout=120)
    return output


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("archives"), "wheel", "sdist")


@pytest.fixture(scope="module")
def wheel(archives):
    return next(archives.glob("*.whl"))


def test_wheel_has_package_settings_and_commands(wheel):
    held = contents(wheel)
    beside = {"conf": "segkit/conf", "datasets": "segkit/commands/datasets", "segkit": "segkit"}
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *beside, ":(glob)*_seg.py"]
    tracked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        top, _, rest = name.partition("/")
        inside = f"{beside[top]}/{rest}" if rest else f"segkit/commands/{name}"
        assert held.pop(inside) == (ROOT / name).read_bytes(), name
    assert {name.rpartition("/")[2] for name in held} == {"METADATA", "WHEEL", "entry_points.txt", "LICENSE"}


def test_source_archive_builds_the_same_wheel(archives, wheel, tmp_path):
    with tarfile.open(next(archives.glob("*.tar.gz"))) as archive:
        # from 3.11.4 on
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(tmp_path)
    (source,) = tmp_path.iterdir()
    again = build(source, tmp_path / "again", "wheel")
    assert contents(next(again.glob("*.whl"))) == contents(wheel)


def test_wheel_citation_and_changelog_have_the_same_version(wheel):
    assert "version" not in PROJECT
    assert wheel.name.startswith(f"segkit-{segkit.__version__}-")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == segkit.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## .*", changes, re.MULTILINE)[0]
    assert newest == f"## {segkit.__version__} - {citation['date-released']}"


def test_every_top_level_script_is_a_command(wheel):
    entries = configparser.ConfigParser()
    entries.read_string(contents(wheel)[f"segkit-{segkit.__version__}.dist-info/entry_points.txt"].decode())
    named = {name.removeprefix("segkit-") for name in entries["console_scripts"] if name != "segkit"}
    assert named == {script.stem.removesuffix("_seg") for script in ROOT.glob("*_seg.py")} | {"data"}


@pytest.fixture(scope="module")
def far(wheel, tmp_path_factory):
    """Run a command of an installation whose path has spaces, from a folder that held nothing."""
    home = tmp_path_factory.mktemp("far") / "a new environment"
    venv.create(home, with_pip=False)
    where = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", where))
    (site / "heavy.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # torch and friends, once installed
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True, timeout=120)
    work = home.parent / "a folder"
    work.mkdir()
    free = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(command, *arguments, status=0):
        words = [str(home / "bin" / command), *map(str, arguments)]
        found = subprocess.run(words, cwd=work, env=free, capture_output=True, text=True, timeout=300)
        assert found.returncode == status, found.stdout + found.stderr
        assert "train_seg.py" not in found.stdout + found.stderr  # there is no such file here
        return found.stdout + found.stderr

    git = ["git", "-C", str(home.parent), "-c", "user.name=a", "-c", "user.email=a@b.c"]  # somebody's project
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "theirs"], check=True)
    run.work = work
    return run


@pytest.mark.slow
def test_installed_commands_train_test_and_predict(far):
    process = far("segkit-train", *SMALL)
    assert "segkit-test checkpoint=runs/far/best.pt" in process
    assert "mIoU" in far("segkit-test", "checkpoint=runs/far/best.pt", "report=true")
    result = json.loads((far.work / "runs/far/test-whole/result.json").read_text())
    assert result["versions"]["segkit"] == f"{segkit.__version__}, commit unknown"  # not that of the folder
    image = far.work / "photo.png"
    image.write_bytes((ROOT / "docs/images/demo.jpg").read_bytes())
    assert "1 predicted" in far("segkit-predict", "checkpoint=runs/far/best.pt", f"input={image.name}")
    made = {path.relative_to(far.work).as_posix() for path in far.work.rglob("*") if path.is_file()}
    assert {"runs/far/best.pt", "runs/far/test-whole/report.html"} <= made
    assert any(name.startswith("runs/far/predict-photo/overlays/") for name in made)


@pytest.mark.slow
def test_messages_of_an_installation_name_its_commands(far):
    assert "segkit-train experiment=demo" in far("segkit-train", "--help")
    assert "`segkit-data camvid prepare`" in far("segkit-train", "data=camvid", status=2)
    with_data = far("segkit-data")
    assert all(name in with_data for name in ("ade20k", "camvid", "cityscapes", "folder", "prepare"))
    assert "nowhere verify: there is no such data set" in far("segkit-data", "nowhere", "verify", status=2)
    for words in (("camvid", "verify"), ("verify", "camvid")):
        assert "`segkit-data camvid prepare`" in far("segkit-data", *words, "--root", ".", status=2)
    assert "usage: segkit-data camvid" in far("segkit-data", "camvid", "--help")
