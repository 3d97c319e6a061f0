"""An exported network in ten lines, without PyTorch: numpy, OpenCV and OpenVINO.

python export_seg.py checkpoint=runs/NAME/best.pt format=openvino output=net.xml
python examples/deploy_openvino.py net.xml photo.jpg colors.png
"""

import json
import sys

import cv2
import numpy as np
import openvino

network, photo, result = sys.argv[1:]
core = openvino.Core()
model = core.read_model(network)
facts = {key: json.loads(model.get_rt_info(["segkit", key]).astype(str)) for key in ("names", "colors")}
precision = {
    "INFERENCE_PRECISION_HINT": "f32"
}  # without it, bf16 where the processor has it: faster, less exact
compiled = core.compile_model(model, "CPU", precision)
image = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)  # (H, W, 3) uint8 RGB
ids = compiled(image[None])["ids"]  # (1, H, W) uint8
colors = np.array(facts["colors"], np.uint8)[ids[0]]
cv2.imwrite(result, cv2.cvtColor(colors, cv2.COLOR_RGB2BGR))
for k, pixels in zip(*np.unique(ids, return_counts=True), strict=True):
    print(f"{facts['names'][k]}: {pixels / ids.size:.1%}")
