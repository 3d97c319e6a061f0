"""Run an exported network without PyTorch: numpy, OpenCV and OpenVINO.

python export_seg.py checkpoint=runs/NAME/best.pt format=openvino output=net.xml
python examples/deploy_openvino.py net.xml photo.jpg colors.png
"""

import json
import sys

import cv2
import numpy as np
import openvino

network, photo, output = sys.argv[1:]
core = openvino.Core()
model = core.read_model(network)
metadata = {key: json.loads(model.get_rt_info(["segkit", key]).astype(str)) for key in ("names", "colors")}
# the default is bf16 if the processor has it: faster, less exact
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
image = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)  # (H, W, 3) uint8 RGB
ids = compiled(image[None])["ids"]  # (1, H, W) uint8
colors = np.array(metadata["colors"], np.uint8)[ids[0]]
cv2.imwrite(output, cv2.cvtColor(colors, cv2.COLOR_RGB2BGR))
for k, pixels in zip(*np.unique(ids, return_counts=True), strict=True):
    print(f"{metadata['names'][k]}: {pixels / ids.size:.1%}")
