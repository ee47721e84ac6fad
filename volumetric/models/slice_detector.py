"""Faster R-CNN on every slice; its boxes are linked afterwards, see volumetric.linking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from volumetric.models.detector import Cells

_GRID = 7  # cells along a side of a region that is looked at again
_HIDDEN = 256  # numbers that say what is in it
_CELLS = 4.0  # of its grid along the smaller of an anchor's two sizes


class SliceDetector(nn.Module):
    """Two stages on each slice: regions that may hold an object, then what is in each.

    Ren et al., NeurIPS 2015, on a feature pyramid (Lin et al., CVPR 2017): torchvision's parts, and
    an encoder of ours. A slice is seen with its neighbours, as further channels. An object's box is
    asked for in every slice that it reaches, in full, so that slices agree where they see the same
    object.

    In training `forward` takes the boxes, too, and returns the sum of the four losses; else `Cells`
    of images (B, channels, D, H, W): here a cell is what was found in a slice, and its box is one
    slice thick.

    Args:
        stages: of the encoder, each from maps (N, C, h, w) to maps of half their sides.
        widths: channels that come out of each, in order.
        n_classes: kinds of objects.
        n_levels: maps that are looked at, of the coarsest stages.
        width: channels of the pyramid.
        neighbours: slices before and after each that it is seen with.
        slice_axis: what a slice lies across: 0 D, 1 H or 2 W.
    """

    def __init__(  # noqa: PLR0913 - every one is a choice
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        *,
        n_classes: int,
        n_levels: int,
        width: int = 64,
        neighbours: int = 1,
        slice_axis: int = 0,
    ):
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.models.detection.roi_heads import RoIHeads
        from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
        from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

        super().__init__()
        self.n_classes, self.neighbours, self.slice_axis = n_classes, neighbours, slice_axis
        self.n_levels = n_levels
        self.encoder = nn.ModuleList(stages)
        pyramid = FeaturePyramidNetwork(list(widths[-n_levels:]), width)
        strides = [2 ** (len(stages) - level) for level in reversed(range(n_levels))]
        anchors = AnchorGenerator(
            tuple((_CELLS * stride, _CELLS * stride * 2**0.5) for stride in strides),
            ((0.5, 1.0, 2.0),) * n_levels,
        )
        regions = RegionProposalNetwork(
            anchors,
            RPNHead(width, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=64,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 200, "testing": 200},
            post_nms_top_n={"training": 100, "testing": 100},
            nms_thresh=0.7,
        )
        names = [str(level) for level in range(n_levels)]
        objects = RoIHeads(
            MultiScaleRoIAlign(names, output_size=_GRID, sampling_ratio=2),
            TwoMLPHead(width * _GRID**2, _HIDDEN),
            FastRCNNPredictor(_HIDDEN, n_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=64,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.01,
            nms_thresh=0.3,
            detections_per_img=50,
        )
        # All that no weights of photographs have.
        self.head = nn.ModuleDict({"pyramid": pyramid, "regions": regions, "objects": objects})

    # Lists of as many boxes as there are would be compiled anew for each number of them.
    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator,no-untyped-call]
    def forward(
        self,
        images: torch.Tensor,
        targets: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> torch.Tensor | Cells:
        """The loss if there are targets, boxes (n, 6) and labels (n,) an image; else cells."""
        volumes = images.movedim(2 + self.slice_axis, 2)
        found: torch.Tensor | Cells = self._judge(volumes, self._look(volumes), targets)
        return found

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _judge(
        self,
        volumes: torch.Tensor,
        maps: dict[str, torch.Tensor],
        targets: Sequence[tuple[torch.Tensor, torch.Tensor]] | None,
    ) -> torch.Tensor | Cells:
        # Boxes are in pixels, which half of float32 cannot tell apart.
        with torch.autocast(volumes.device.type, enabled=False):
            if targets is None:
                return self._find(volumes, maps)
            return self._learn(volumes, maps, targets)

    def _look(self, volumes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps of each slice (B * D, width, h, w), finest first."""
        depth = volumes.shape[2]
        shifts = range(-self.neighbours, self.neighbours + 1)
        at = torch.arange(depth, device=volumes.device)
        seen = torch.cat([volumes[:, :, (at + s).clamp(0, depth - 1)] for s in shifts], 1)
        x = seen.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        chosen = {str(number): x for number, x in enumerate(maps[-self.n_levels :])}
        return {name: x.float() for name, x in self.head["pyramid"](chosen).items()}

    def _learn(
        self,
        volumes: torch.Tensor,
        maps: dict[str, torch.Tensor],
        targets: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        wanted = [
            {"boxes": boxes[:, _SIDES], "labels": labels}
            for one in targets
            for boxes, labels in self._cut(*one, depth=volumes.shape[2])
        ]
        slices, sizes = self._list(volumes)
        regions, first = self.head["regions"](slices, maps, wanted)
        _, second = self.head["objects"](maps, regions, sizes, wanted)
        losses = torch.stack([*first.values(), *second.values()])
        return losses.sum()

    def _find(self, volumes: torch.Tensor, maps: dict[str, torch.Tensor]) -> Cells:
        slices, sizes = self._list(volumes)
        regions, _ = self.head["regions"](slices, maps)
        found, _ = self.head["objects"](maps, regions, sizes)
        depth = volumes.shape[2]
        return self._tell([found[start : start + depth] for start in range(0, len(found), depth)])

    def _cut(
        self, boxes: torch.Tensor, labels: torch.Tensor, *, depth: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each slice what it asks for: boxes (n, 4) in pixels, and labels from 1.

        That is what reaches its middle; what lies between two middles is asked for in the nearer.
        """
        plane = self._plane()
        low, high = boxes[:, self.slice_axis], boxes[:, 3 + self.slice_axis]
        nearest = ((low + high) / 2).round().clamp(0, depth - 1)
        cut = []
        for number in range(depth):
            there = ((low <= number) & (number <= high)) | (nearest == number)
            cut.append((boxes[there][:, plane] + 0.5, labels[there] + 1))
        return cut

    def _tell(self, found: Sequence[Sequence[dict[str, torch.Tensor]]]) -> Cells:
        """Cells of what each slice of each image holds; where an image has fewer, of nothing."""
        counts = [sum(len(one["labels"]) for one in slices) for slices in found]
        device = found[0][0]["boxes"].device
        logits = torch.full((len(found), max(counts), self.n_classes), -torch.inf, device=device)
        centres = torch.full((len(found), max(counts)), -torch.inf, device=device)
        boxes = torch.zeros((len(found), max(counts), 6), device=device)
        plane = self._plane()
        for number, slices in enumerate(found):
            at = 0
            for slice_number, one in enumerate(slices):
                rows = torch.arange(at, at + len(one["labels"]), device=device)
                sure = torch.logit(one["scores"], eps=1e-6)
                logits[number, rows, one["labels"] - 1] = sure
                centres[number, rows] = sure
                own = one["boxes"].new_empty((len(rows), 6))
                own[:, plane] = one["boxes"][:, _SIDES] - 0.5
                own[:, self.slice_axis] = slice_number - 0.5
                own[:, 3 + self.slice_axis] = slice_number + 0.5
                boxes[number, rows] = own
                at += len(rows)
        points = (boxes[0, :, :3] + boxes[0, :, 3:]) / 2
        return Cells(logits, centres, boxes, points, torch.ones_like(points))

    def _plane(self) -> list[int]:
        """Where rows and columns of a slice lie in boxes (n, 6)."""
        return [axis for axis in range(6) if axis % 3 != self.slice_axis]

    def _list(self, volumes: torch.Tensor) -> tuple[object, list[tuple[int, int]]]:
        """The slices as torchvision takes them, of which it asks no more than their size."""
        from torchvision.models.detection.image_list import ImageList

        batch, channels, depth, height, width = volumes.shape
        sizes = [(height, width)] * (batch * depth)
        slices = volumes.transpose(1, 2).reshape(batch * depth, channels, height, width)
        return ImageList(slices, sizes), sizes


_SIDES = [1, 0, 3, 2]  # torchvision's boxes are (x, y, x, y), ours (row, column, row, column)
