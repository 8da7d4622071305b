"""Define the two operators that torchvision needs to be imported with torch's CPU build.

Python imports a module of this name when it starts. torchvision registers how its operators behave on fake tensors,
and its compiled part, which would define them, is built for a different torch.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
