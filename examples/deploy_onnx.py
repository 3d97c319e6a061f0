"""Run an exported network without PyTorch: numpy, OpenCV and onnxruntime.

python export_seg.py checkpoint=runs/NAME/best.pt output=net.onnx
python examples/deploy_onnx.py net.onnx photo.jpg colors.png
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

network, photo, output = sys.argv[1:]
session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
metadata = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
image = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)  # (H, W, 3) uint8 RGB
(ids,) = session.run(["ids"], {"image": image[None]})  # (1, H, W) uint8
colors = np.array(metadata["colors"], np.uint8)[ids[0]]
cv2.imwrite(output, cv2.cvtColor(colors, cv2.COLOR_RGB2BGR))
for k, pixels in zip(*np.unique(ids, return_counts=True), strict=True):
    print(f"{metadata['names'][k]}: {pixels / ids.size:.1%}")
