"""Libraries that commands import before their first result."""

import pytest

from conftest import run_command
from runs import SMALL

pytestmark = pytest.mark.medium

WATCHED = ["torch", "torchvision", "albumentations", "scipy", "sympy", "onnx", "pandas", "timm", "cv2"]
WATCHED += ["hydra", "pydantic", "torch._dynamo", "torch._inductor", "tensorboard", "sklearn", "matplotlib"]
WATCHED += ["onnxruntime", "openvino", "safetensors", "huggingface_hub", "rasterio", "tifffile"]
WATCHED += ["pycocotools", "segmentation_models_pytorch"]
SCRIPT = f"""
import atexit, sys, runpy
watched = {WATCHED}
atexit.register(lambda: print("imported:", *(name for name in watched if name in sys.modules)))
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def find_imports(*command):
    """Return the watched libraries that a command imports."""
    found = run_command("-c", SCRIPT, *command)
    return set(found.stdout.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize("command", ["train_seg.py", "test_seg.py", "predict_seg.py", "export_seg.py"])
def test_help_imports_only_hydra_and_pydantic(command):
    assert find_imports(command, "--help") == {"hydra", "pydantic"}


def test_training_imports_neither_compiler_nor_albumentations(tmp_path):
    words = f"schedule.iterations=1 evaluation.every=1 schedule/optimizer=adamw run_dir={tmp_path} run_name=a"
    needed = {"torch", "cv2", "hydra", "pydantic"}
    found = find_imports("train_seg.py", *SMALL, *words.split())
    assert (tmp_path / "a/best.pt").exists()
    assert found - {"tensorboard"} == needed  # tensorboard writes the events
    checkpoint = f"checkpoint={tmp_path}/a/best.pt"
    assert find_imports("test_seg.py", checkpoint) == needed | {"scipy"}  # intervals of the scores
    sample = f"input={tmp_path}/a/samples.png"
    assert find_imports("predict_seg.py", checkpoint, sample, f"output={tmp_path}/out") == needed


STEPS = """
import sys, torch
if "skip" in sys.argv:
    from segkit.cpu.process import skip_compiler_import
    skip_compiler_import()
    skip_compiler_import()
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 2))
groups = [{"params": [*network[0].parameters()], "lr": 0.3}, {"params": [*network[1:].parameters()]}]
for kind in (torch.optim.SGD, torch.optim.AdamW):
    optimizer = kind(groups, lr=0.1, weight_decay=0.01)
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


def test_optimizers_without_compiler_import_take_the_same_steps(capsys):
    exec(STEPS, {})
    plain = capsys.readouterr().out.splitlines()
    skipped = run_command("-c", STEPS, "skip").stdout.splitlines()
    assert skipped[:2] == plain[:2]
    assert skipped[2] == "False"
