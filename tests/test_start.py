"""What a command imports before its first result: start-up time is import time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WATCHED = (
    "torch",
    "torchvision",
    "albumentations",
    "scipy",
    "sympy",
    "onnx",
    "pandas",
    "timm",
    "cv2",
    "hydra",
)
HEAVY = (  # what only some settings of some commands need
    "torch._dynamo",
    "torch._inductor",
    "tensorboard",
    "sklearn",
    "matplotlib",
    "onnxruntime",
    "openvino",
    "safetensors",
    "huggingface_hub",
    "rasterio",
    "tifffile",
    "pycocotools",
    "segmentation_models_pytorch",
)
TELL = f"""
import atexit, sys, runpy
watched = {WATCHED} + {HEAVY}
atexit.register(lambda: print("imported:", *(name for name in watched if name in sys.modules)))
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def imported(*command):
    """The watched libraries that a command has imported by its end."""
    words = [sys.executable, "-c", TELL, *map(str, command)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return set(found.stdout.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize("command", ["train_seg.py", "test_seg.py", "predict_seg.py", "export_seg.py"])
def test_help_imports_what_composes_the_settings_and_nothing_that_computes(command):
    assert imported(command, "--help") == {"hydra"}


def test_help_does_not_have_hydra_list_what_it_found(run_here, monkeypatch, capsys):
    """Twice over all groups, it took most of the time of a help that shows neither list."""
    from hydra._internal.hydra import Hydra

    monkeypatch.setattr(Hydra, "format_config_groups", Hydra.format_config_groups)  # put back at the end
    monkeypatch.setattr(Hydra, "list_all_config_groups", lambda *_: pytest.fail("groups are listed"))
    assert run_here("train_seg", "--help") == 0
    assert "model/backbone" in capsys.readouterr().out


def test_a_refused_setting_imports_nothing_that_computes():
    assert imported("train_seg.py", "schedule.lr=quick") == {"hydra"}


def test_a_training_scores_and_is_scored_without_compiler_or_augmentation_library(tmp_path):
    sizes = "data.size=32 data.val_scenes=2 augment.crop_size=32 model.backbone.width=8 model.head.width=16"
    length = "schedule.iterations=1 schedule.batch_size=2 schedule.lr_schedule.warmup_iterations=0"
    rest = f"run_dir={tmp_path} run_name=a evaluation.every=1 loader.workers=0 schedule/optimizer=adamw"
    needed = {"torch", "cv2", "hydra"}
    found = imported("train_seg.py", "experiment=demo", *f"{sizes} {length} {rest}".split())
    assert (tmp_path / "a/best.pt").exists()
    assert found - {"tensorboard"} == needed  # tensorboard writes the events
    checkpoint = f"checkpoint={tmp_path}/a/best.pt"
    assert imported("test_seg.py", checkpoint) == needed
    sample = f"input={tmp_path}/a/samples.png"
    assert imported("predict_seg.py", checkpoint, sample, f"output={tmp_path}/out") == needed


STEPS = """
import sys, torch
if "skip" in sys.argv:
    from segkit.cpu.process import skip_compiler_import
    skip_compiler_import()
    skip_compiler_import()
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 2))
groups = [{"params": network[0].parameters(), "lr": 0.3}, {"params": network[1:].parameters()}]
optimizer = getattr(torch.optim, sys.argv[1])(groups, lr=0.1, weight_decay=0.01)
for _ in range(3):
    optimizer.zero_grad()
    network(torch.randn(4, 5)).square().sum().backward()
    optimizer.step()
state = optimizer.state_dict()
optimizer.load_state_dict(state)
optimizer.step(lambda: network(torch.ones(4, 5)).sum())
values = [*network.state_dict().values(), *(t for s in state["state"].values() for t in s.values())]
print([None if v is None else v.tolist() for v in values])
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_optimizer_without_compiler_import_takes_the_same_steps(name):
    def run(*words):
        command = [sys.executable, "-c", STEPS, name, *words]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    plain, skipped = run(), run("skip")
    assert skipped[0] == plain[0]
    assert skipped[1] == "False"
