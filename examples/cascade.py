"""Cascade R-CNN (arXiv 1712.00726) over torchvision's region heads; with masks, Cascade Mask R-CNN.

Stage t refines the boxes of stage t - 1 and is trained on boxes whose overlap with a true box is at least its
threshold, 0.5, 0.6 and 0.7. Box regression does not depend on the class. In detection, scores are the mean
over the stages and boxes those of the last; masks come from one head, trained on the samples of the first
stage, as in detectron2.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection import _utils as parts
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import boxes as box_ops

OVERLAPS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))  # of the regression
Boxes = list[Tensor]  # of each image, (N, 4)
Targets = list[dict[str, Tensor]]


class CascadeHeads(RoIHeads):
    """Three consecutive box heads that replace the one of a Faster or Mask R-CNN."""

    def __init__(self, single: RoIHeads, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in vars(single).items() if name[0] != "_"})
        for name, module in single.named_children():
            setattr(self, name, module)
        self.box_heads = nn.ModuleList(copy.deepcopy(single.box_head) for _ in OVERLAPS)
        width = single.box_predictor.cls_score.in_features
        self.box_predictors = nn.ModuleList(FastRCNNPredictor(width, num_classes) for _ in OVERLAPS)
        for predictor in self.box_predictors:
            predictor.bbox_pred = nn.Linear(width, 4)
        del self.box_head, self.box_predictor
        self.coders = [parts.BoxCoder(weights) for weights in WEIGHTS]
        self.matchers = [parts.Matcher(t, t, allow_low_quality_matches=False) for t in OVERLAPS]
        self.box_coder = self.coders[-1]  # of the final detections

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Boxes,
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections and losses, as torchvision's heads do."""
        losses: dict[str, Tensor] = {}
        matched: list[Tensor] = []
        labels: list[Tensor] = []
        if self.training:
            proposals, matched, labels, _ = self.select_training_samples(proposals, targets)
        sampled, first_matched, first_labels = proposals, matched, labels
        scores = torch.zeros(())
        deltas, before = scores, proposals
        for t, (head, predictor) in enumerate(zip(self.box_heads, self.box_predictors, strict=True)):
            if t:
                proposals = self._refine(t - 1, deltas, before, image_shapes)
                if targets is not None and self.training:
                    matched, labels = self._match(t, proposals, targets)
            logits, deltas = predictor(head(self.box_roi_pool(features, proposals, image_shapes)))
            before = proposals
            if targets is not None and self.training:
                losses |= self._losses(t, logits, deltas, proposals, (matched, labels), targets)
            scores = scores + logits.softmax(1)
        if self.training:
            detections: list[dict[str, Tensor]] = []
        else:  # the mean of the stages' scores as logits; one regression for all classes
            mean_logits = (scores / len(OVERLAPS)).clamp(min=1e-12).log()
            class_deltas = deltas.repeat(1, mean_logits.shape[1])
            detections = self._detect(mean_logits, class_deltas, before, image_shapes)
        if self.mask_head is not None:
            samples = (sampled, first_matched, first_labels)
            losses |= self._masks(features, image_shapes, detections, samples, targets)
        return detections, losses

    def _refine(
        self, stage: int, deltas: Tensor, proposals: Boxes, image_shapes: list[tuple[int, int]]
    ) -> Boxes:
        """Apply a stage's regression to boxes and clip them to the image, without gradient."""
        decoded = self.coders[stage].decode(deltas.detach(), proposals)[:, 0]
        split = decoded.split([len(boxes) for boxes in proposals])
        return [box_ops.clip_boxes_to_image(b, shape) for b, shape in zip(split, image_shapes, strict=True)]

    def _match(self, stage: int, proposals: Boxes, targets: Targets) -> tuple[list[Tensor], list[Tensor]]:
        """Return the true box of each proposal and its class, 0 below the overlap threshold."""
        matched, labels = [], []
        for boxes, target in zip(proposals, targets, strict=True):
            if not len(target["boxes"]):
                matched.append(torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device))
                labels.append(matched[-1])
                continue
            index = self.matchers[stage](box_ops.box_iou(target["boxes"], boxes))
            matched.append(index.clamp(min=0))
            labels.append(torch.where(index >= 0, target["labels"][matched[-1]], 0))
        return matched, labels

    def _losses(
        self,
        stage: int,
        logits: Tensor,
        deltas: Tensor,
        proposals: Boxes,
        assigned: tuple[list[Tensor], list[Tensor]],
        targets: Targets,
    ) -> dict[str, Tensor]:
        matched, labels = assigned
        label = torch.cat(labels)
        true = [  # without true boxes there are no positives, so any box will do
            target["boxes"][index] if len(target["boxes"]) else boxes
            for boxes, index, target in zip(proposals, matched, targets, strict=True)
        ]
        wanted = torch.cat(self.coders[stage].encode(true, proposals))
        positive = label > 0
        regression = F.smooth_l1_loss(deltas[positive], wanted[positive], beta=1 / 9, reduction="sum")
        return {
            f"loss_classifier_{stage}": F.cross_entropy(logits, label),
            f"loss_box_reg_{stage}": regression / max(len(label), 1),
        }

    def _detect(
        self, logits: Tensor, deltas: Tensor, proposals: Boxes, image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        return [{"boxes": b, "labels": k, "scores": s} for b, k, s in zip(boxes, labels, scores, strict=True)]

    def _masks(
        self,
        features: dict[str, Tensor],
        image_shapes: list[tuple[int, int]],
        detections: list[dict[str, Tensor]],
        samples: tuple[Boxes, list[Tensor], list[Tensor]],
        targets: Targets | None,
    ) -> dict[str, Tensor]:
        """Add masks to detections; in training, return their loss on the first stage's positives."""
        boxes, matched = [each["boxes"] for each in detections], []
        if self.training:
            positive = [label > 0 for label in samples[2]]
            boxes = [b[keep] for b, keep in zip(samples[0], positive, strict=True)]
            matched = [m[keep] for m, keep in zip(samples[1], positive, strict=True)]
        pooled = self.mask_roi_pool(features, boxes, image_shapes)
        logits = self.mask_predictor(self.mask_head(pooled))
        if targets is not None and self.training:
            masks, labels = [t["masks"] for t in targets], [t["labels"] for t in targets]
            return {"loss_mask": maskrcnn_loss(logits, boxes, masks, labels, matched)}
        masks = maskrcnn_inference(logits, [each["labels"] for each in detections])
        for each, image_masks in zip(detections, masks, strict=True):
            each["masks"] = image_masks
        return {}


def add_cascade(detector: FasterRCNN | MaskRCNN, num_classes: int) -> Any:
    """Replace the box head of torchvision's Faster or Mask R-CNN by a cascade, in place."""
    detector.roi_heads = CascadeHeads(detector.roi_heads, num_classes)
    return detector
