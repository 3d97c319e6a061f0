"""MLflow and Weights & Biases: what is recorded, and a resumed run. Small doubles stand in for the services.

Where the packages are installed, the tests at the end run against MLflow's database and W&B's offline folder.
"""

from __future__ import annotations

import logging
import re
import struct
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from segkit.monitor import monitor as monitor_module

NAMES = ["sky", "car (5)"]
COLORS = np.array([[0, 0, 255], [255, 0, 0]], np.uint8)
COUNTS = np.array([[3, 1], [0, 4]])
Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")


class MlflowDouble:
    """The calls of MlflowClient that the writer makes; a run keeps what it is given, under MLflow's rules."""

    servers: dict = {}  # noqa: RUF012

    def __init__(self, tracking_uri):
        self.runs = self.servers.setdefault(tracking_uri, {})

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifact_location=None):
        return "1"

    def create_run(self, experiment, run_name):
        run_id = f"id{len(self.runs)}"
        self.runs[run_id] = SimpleNamespace(name=run_name, metrics=[], params={}, files={}, status="RUNNING")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id):
        return SimpleNamespace(data=self.runs[run_id])

    def update_run(self, run_id, status):
        self.runs[run_id].status = status

    set_terminated = update_run

    def log_batch(self, run_id, metrics=(), params=()):
        run = self.runs[run_id]
        assert len(params) <= 100
        for key, value in params:
            assert run.params.setdefault(key, value) == value, "parameters cannot be changed"
        for metric in metrics:
            assert re.fullmatch(r"[/\w.\- ]+", metric.key), metric.key
            run.metrics.append(metric)

    def log_image(self, run_id, image, artifact_file):
        self.runs[run_id].files[artifact_file] = image.shape

    def log_text(self, run_id, text, artifact_file):
        self.runs[run_id].files[artifact_file] = text

    def log_artifact(self, run_id, path):
        with open(path, "rb") as file:  # noqa: PTH123
            self.runs[run_id].files[path.rpartition("/")[2]] = file.read()


class WandbDouble:
    """The calls of wandb that the writer makes."""

    def __init__(self):
        self.started, self.rows, self.artifacts, self.exit_codes = [], [], [], []
        self.Settings = lambda **options: options
        self.Image = lambda image: ("image", image.shape)
        self.Table = lambda columns, data: ("table", columns, data)
        self.Artifact = lambda name, type: SimpleNamespace(name=name, add_file=self.artifacts.append)
        self.config = {}

    def init(self, **options):
        self.started.append(options)
        return SimpleNamespace(
            dir=options["dir"] + "/wandb",
            log=self.rows.append,
            log_artifact=lambda artifact: None,
            define_metric=lambda name, step_metric: None,
            config=SimpleNamespace(update=lambda new, allow_val_change: self.config.update(new)),
            finish=lambda exit_code: self.exit_codes.append(exit_code),
        )


@pytest.fixture
def services(monkeypatch):
    """Install both doubles."""
    mlflow = ModuleType("mlflow")
    mlflow.MlflowClient, mlflow.entities = MlflowDouble, SimpleNamespace(Metric=Metric, Param=Param)
    monkeypatch.setattr(MlflowDouble, "servers", {})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    wandb = WandbDouble()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return wandb


def record(folder, writer, *, start=0, stop=40, lr=0.01):
    """Record a run of 40 iterations that validates at 20 and 40, from one iteration to another."""
    arguments = {"total": 40, "iterations_per_epoch": 8.0, "names": NAMES, "colors": COLORS}
    with monitor_module.Monitor(folder, start=start, writers={writer: True}, **arguments) as monitor:
        monitor.log_settings({"schedule": {"lr": lr}, **{f"k{i}": i for i in range(150)}}, network="conv")
        for t in range(start + 1, stop + 1):
            monitor.log_step(t, {"main": 1 / t}, {"all": 0.1}, images=4, data_seconds=0.0)
            if t % 20 == 0:
                monitor.log_scores(t, {"mIoU": t / 100}, {"IoU": [0.5, t / 100]}, counts=COUNTS)
                monitor.log_image("val/samples", t, np.zeros((4, 6, 3), np.uint8))
        (folder / "best.pt").write_bytes(b"weights")
        if stop < 40:
            raise KeyboardInterrupt


def record_broken(folder, writer):
    """Record a run that is killed at 37 and resumed from the checkpoint at 20, with another setting."""
    with pytest.raises(KeyboardInterrupt):
        record(folder, writer, stop=37)
    record(folder, writer, start=20, lr=0.02)


def test_mlflow_resumed_run_has_every_point_once(services, tmp_path):
    record_broken(tmp_path / "run", "mlflow")
    (server,) = MlflowDouble.servers.values()
    assert list(MlflowDouble.servers) == [f"sqlite:///{tmp_path}/mlflow.db"]
    (run,) = server.values()
    points = {m.key: [(o.step, o.value) for o in run.metrics if o.key == m.key] for m in run.metrics}
    assert points["train/loss"] == [(t, 1 / t) for t in (10, 20, 30, 40)]
    assert points["val_iou/car _5_"] == [(20, 0.2), (40, 0.4)]
    assert (run.name, run.status) == ("run", "FINISHED")
    assert run.params["schedule.lr"] == "0.01"  # the first start's: MLflow cannot change it
    assert run.params["k149"] == "149"
    assert '"lr": 0.02' in run.files["settings_0000020.md"]
    assert run.files["val/samples_0000040.png"] == (4, 6, 3)
    assert "| car (5) |" in run.files["val/classes_0000020.md"]
    assert run.files["best.pt"] == b"weights"
    assert (
        "MLflow cannot remove points: those of iterations 21 to 30 stay"
        in (tmp_path / "run/train.log").read_text()
    )


def test_wandb_resumed_run_has_every_point_once(services, tmp_path):
    record_broken(tmp_path / "run", "wandb")
    first, second = services.started
    assert first["id"] == second["id"]
    assert (first["mode"], first["project"], first["name"]) == ("offline", "segkit", "run")
    loss = [(row["iteration"], row["train/loss"]) for row in services.rows if "train/loss" in row]
    assert loss == [(t, 1 / t) for t in (10, 20, 30, 40)]
    tables = [(row["iteration"], row["val/classes"]) for row in services.rows if "val/classes" in row]
    assert [iteration for iteration, _ in tables] == [20, 40]
    kind, columns, data = tables[0][1]
    assert (kind, columns[0], data[1][0]) == ("table", "class", "car (5)")
    assert len({len(columns), *(len(row) for row in data)}) == 1
    assert [row["iteration"] for row in services.rows if "val/samples" in row] == [20, 40]
    assert '"lr": 0.02' in (tmp_path / "run/wandb/settings.md").read_text()
    assert services.config["schedule.lr"] == 0.02
    assert services.artifacts == [str(tmp_path / "run/best.pt")] * 2
    assert services.exit_codes == [1, 0]
    assert "iterations 21 to 30 stay" in (tmp_path / "run/train.log").read_text()


def test_tracker_failure_does_not_stop_training(services, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    for name in ("log_batch", "log_image", "log_text", "log_artifact", "set_terminated"):
        monkeypatch.setattr(MlflowDouble, name, refuse)
    record(tmp_path / "run", "mlflow")
    assert (tmp_path / "run/train.log").read_text().count(
        "MLflow does not record this: ConnectionError: no route to host"
    ) == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_missing_tracker_names_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    handlers = [*logging.getLogger("segkit").handlers]
    with pytest.raises(ValueError, match=rf"writers.{name}=true: .*pip install 'segkit\[{name}\]'"):
        record(tmp_path / "run", name)
    assert logging.getLogger("segkit").handlers == handlers


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_database_has_every_point_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record_broken(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("segkit")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((m.step, m.value) for m in history) == [(t, 1 / t) for t in (10, 20, 30, 40)]
    assert run.info.status == "FINISHED"
    files = {str(f.relative_to(tmp_path)) for f in (tmp_path / "mlflow-artifacts").rglob("*") if f.is_file()}
    place = f"mlflow-artifacts/{run.info.run_id}/artifacts"
    assert {f"{place}/best.pt", f"{place}/val/samples_0000020.png"} <= files


def read_records(data):
    """Yield the records of a log in LevelDB's format behind W&B's header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_offline_folders_have_every_point_once(tmp_path):
    wandb = pytest.importorskip("wandb")
    record_broken(tmp_path / "run", "wandb")
    wandb.teardown()  # as at the end of the process: the client's own process writes what is left
    folders = sorted((tmp_path / "run/wandb").glob("offline-run-*"))
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1 < len(folders)
    from wandb.proto.wandb_internal_pb2 import Record

    points = []
    for file in sorted((tmp_path / "run/wandb").rglob("*.wandb")):
        for data in read_records(file.read_bytes()):
            items = Record.FromString(data).history.item
            row = {item.key or "/".join(item.nested_key): item.value_json for item in items}
            points += [(int(row["iteration"]), float(row["train/loss"]))] if "train/loss" in row else []
    assert points == [(t, 1 / t) for t in (10, 20, 30, 40)]
