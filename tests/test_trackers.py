"""MLflow and Weights & Biases: what is recorded, and a resumed run. Mocks stand in for the services.

Where the packages are installed, the tests at the end run against MLflow's database and W&B's offline folder.
"""

from __future__ import annotations

import logging
import posixpath
import re
import struct
import sys
from collections import namedtuple
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from segkit.monitor import monitor as monitor_module
from segkit.monitor.writers.mlflow import clean_name

NAMES = ["sky", "car (5)"]
COLORS = np.array([[0, 0, 255], [255, 0, 0]], np.uint8)
COUNTS = np.array([[3, 1], [0, 4]])
Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")


@pytest.fixture
def mlflow(monkeypatch):
    """A mock of MLflow whose client keeps the parameters."""
    module = MagicMock(entities=SimpleNamespace(Metric=Metric, Param=Param))
    client = module.MlflowClient.return_value
    stored = client.get_run.return_value.data.params = {}
    client.log_batch.side_effect = lambda run_id, metrics=(), params=(): stored.update(params)
    client.get_experiment_by_name.return_value = None
    client.create_run.return_value.info.run_id = "id0"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    module = MagicMock()
    module.init.return_value.dir = str(tmp_path / "run/wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


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


def test_mlflow_resumed_run_has_every_point_once(mlflow, tmp_path):
    record_broken(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient.return_value
    assert mlflow.MlflowClient.call_args.kwargs == {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    batches = [call.kwargs for call in client.log_batch.call_args_list]
    metrics = [metric for batch in batches for metric in batch.get("metrics", ())]
    assert all(re.fullmatch(r"[/\w.\- ]+", metric.key) for metric in metrics)
    points = {m.key: [(o.step, o.value) for o in metrics if o.key == m.key] for m in metrics}
    assert points["train/loss"] == [(t, 1 / t) for t in (10, 20, 30, 40)]
    assert points["val_iou/car _5_"] == [(20, 0.2), (40, 0.4)]
    assert client.create_run.call_args.kwargs == {"run_name": "run"}
    assert client.set_terminated.call_args_list[-1].args == ("id0", "FINISHED")
    params = client.get_run.return_value.data.params
    assert params["schedule.lr"] == "0.01"  # the first start's: MLflow cannot change it
    assert params["k149"] == "149"
    assert max(len(batch.get("params", ())) for batch in batches) <= 100
    texts = {call.args[2]: call.args[1] for call in client.log_text.call_args_list}
    assert '"lr": 0.02' in texts["settings_0000020.md"]
    assert "| car (5) |" in texts["val/classes_0000020.md"]
    assert client.log_image.call_args.kwargs == {"artifact_file": "val/samples_0000040.png"}
    assert client.log_artifact.call_args.args == ("id0", str(tmp_path / "run/best.pt"))
    log = (tmp_path / "run/train.log").read_text()
    assert "MLflow cannot remove points: those of iterations 21 to 30 stay" in log


def test_wandb_resumed_run_has_every_point_once(wandb, tmp_path):
    record_broken(tmp_path / "run", "wandb")
    first, second = [call.kwargs for call in wandb.init.call_args_list]
    assert first["id"] == second["id"]
    assert (first["mode"], first["project"], first["name"]) == ("offline", "segkit", "run")
    run = wandb.init.return_value
    rows = [call.args[0] for call in run.log.call_args_list]
    points = {tag: [row["iteration"] for row in rows if tag in row] for row in rows for tag in row}
    assert points["val/classes"] == points["val/samples"] == [20, 40]
    loss = [(row["iteration"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert loss == [(t, 1 / t) for t in (10, 20, 30, 40)]
    table = next(c.kwargs for c in wandb.Table.call_args_list if c.kwargs["columns"][0] == "class")
    assert table["data"][1][0] == "car (5)"
    assert {len(row) for row in table["data"]} == {len(table["columns"])}
    assert '"lr": 0.02' in (tmp_path / "run/wandb/settings.md").read_text()
    assert run.config.update.call_args.args[0]["schedule.lr"] == 0.02
    added = wandb.Artifact.return_value.add_file.call_args_list
    assert [call.args for call in added] == [(str(tmp_path / "run/best.pt"),)] * 2
    assert [call.kwargs for call in run.finish.call_args_list] == [{"exit_code": 1}, {"exit_code": 0}]
    assert "iterations 21 to 30 stay" in (tmp_path / "run/train.log").read_text()


@pytest.mark.parametrize("name", ["val_iou/a//b", "val_iou/..", "val_iou/a/", "val_iou/./a:b", "/"])
def test_mlflow_accepts_names_of_curves(name):
    cleaned = clean_name(name)
    assert re.fullmatch(r"[/\w.\- ]+", cleaned)
    assert posixpath.normpath(cleaned) == cleaned.lstrip("/.")
    assert clean_name("val_iou/a.. b/.c") == "val_iou/a.. b/.c"


def test_tracker_failure_does_not_stop_training(mlflow, tmp_path):
    client = mlflow.MlflowClient.return_value
    for name in ("get_run", "log_batch", "log_image", "log_text", "log_artifact", "set_terminated"):
        getattr(client, name).side_effect = ConnectionError("no route to host")
    record(tmp_path / "run", "mlflow")
    log = (tmp_path / "run/train.log").read_text()
    assert log.count("MLflow does not record this: ConnectionError: no route to host") == 1


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
