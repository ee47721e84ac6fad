"""Faster R-CNN on every slice, whose boxes are linked from slice to slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from volumetric.boxes import Objects
from volumetric.linking import link_slices
from volumetric.models.detector import Cells

_GRID = 7  # cells along a side of a region that is looked at again
_HIDDEN = 256  # numbers that say what is in it
_CELLS = 4.0  # of its grid along the smaller of an anchor's two sizes
_NEVER = -30.0  # logit of what is not there


class SliceDetector(nn.Module):
    """Two stages on each slice: regions that may hold an object, then what is in each.

    Ren et al., NeurIPS 2015, on a feature pyramid (Lin et al., CVPR 2017): torchvision's parts, and
    an encoder of ours. A slice is seen with its neighbours, as further channels. An object's box is
    asked for in every slice that it reaches, in full, so that slices agree where they see the same
    object; in evaluation their boxes are linked (`link_slices`).

    In training `forward` takes the boxes, too, and returns the sum of the four losses; else `Cells`
    of images (B, channels, D, H, W): here a cell is a linked object, and its box the cell's.

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
        self.pyramid = FeaturePyramidNetwork(list(widths[-n_levels:]), width)
        strides = [2 ** (len(stages) - level) for level in reversed(range(n_levels))]
        anchors = AnchorGenerator(
            tuple((_CELLS * stride, _CELLS * stride * 2**0.5) for stride in strides),
            ((0.5, 1.0, 2.0),) * n_levels,
        )
        self.regions = RegionProposalNetwork(
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
        self.objects = RoIHeads(
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

    def forward(
        self,
        images: torch.Tensor,
        targets: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> torch.Tensor | Cells:
        """The loss if there are targets, boxes (n, 6) and labels (n,) an image; else cells."""
        volumes = images.movedim(2 + self.slice_axis, 2)
        maps = self._look(volumes)
        found: torch.Tensor | Cells = self._judge(volumes, maps, targets)
        return found

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _judge(
        self,
        volumes: torch.Tensor,
        maps: dict[str, torch.Tensor],
        targets: Sequence[tuple[torch.Tensor, torch.Tensor]] | None,
    ) -> torch.Tensor | Cells:
        """The second stage, on lists of as many boxes as there are: nothing to compile."""
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
        return {name: x.float() for name, x in self.pyramid(chosen).items()}

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
        regions, first = self.regions(slices, maps, wanted)
        _, second = self.objects(maps, regions, sizes, wanted)
        losses = torch.stack([*first.values(), *second.values()])
        return losses.sum()

    def _find(self, volumes: torch.Tensor, maps: dict[str, torch.Tensor]) -> Cells:
        slices, sizes = self._list(volumes)
        regions, _ = self.regions(slices, maps)
        found, _ = self.objects(maps, regions, sizes)
        each = [
            Objects(
                one["boxes"][:, _SIDES].double().cpu().numpy() - 0.5,
                one["labels"].cpu().numpy() - 1,
                one["scores"].double().cpu().numpy(),
            )
            for one in found
        ]
        depth = volumes.shape[2]
        linked = [link_slices(each[start : start + depth]) for start in range(0, len(each), depth)]
        return self._tell(linked, volumes)

    def _cut(
        self, boxes: torch.Tensor, labels: torch.Tensor, *, depth: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each slice what reaches its middle: boxes (n, 4) in pixels, and labels from 1."""
        across = self.slice_axis
        plane = [axis for axis in range(6) if axis % 3 != across]
        cut = []
        for number in range(depth):
            there = (boxes[:, across] <= number) & (number <= boxes[:, 3 + across])
            cut.append((boxes[there][:, plane] + 0.5, labels[there] + 1))
        return cut

    def _list(self, volumes: torch.Tensor) -> tuple[object, list[tuple[int, int]]]:
        """The slices as torchvision takes them, of which it asks no more than their size."""
        from torchvision.models.detection.image_list import ImageList

        batch, channels, depth, height, width = volumes.shape
        sizes = [(height, width)] * (batch * depth)
        slices = volumes.transpose(1, 2).reshape(batch * depth, channels, height, width)
        return ImageList(slices, sizes), sizes

    def _tell(self, linked: Sequence[Objects], volumes: torch.Tensor) -> Cells:
        """Cells of which each holds one object, and surely nothing where an image has fewer."""
        n_cells = max(1, *(len(one.labels) for one in linked))
        device = volumes.device
        logits = torch.full((len(linked), n_cells, self.n_classes), _NEVER, device=device)
        centres = torch.full((len(linked), n_cells), _NEVER, device=device)
        boxes = torch.zeros((len(linked), n_cells, 6), device=device)
        boxes[..., 3:] = 1.0
        across = self.slice_axis
        order = [axis + 3 * end for end in (0, 1) for axis in _back(across)]
        for number, one in enumerate(linked):
            rows = torch.arange(len(one.labels), device=device)
            sure = torch.logit(torch.from_numpy(one.known_scores()).float(), eps=1e-6).to(device)
            logits[number, rows, torch.from_numpy(one.labels).to(device)] = sure
            centres[number, rows] = sure
            boxes[number, rows] = torch.from_numpy(one.boxes[:, order]).float().to(device)
        points = (boxes[0, :, :3] + boxes[0, :, 3:]) / 2
        return Cells(logits, centres, boxes, points, torch.ones_like(points))


_SIDES = [1, 0, 3, 2]  # torchvision's boxes are (x, y, x, y), ours (row, column, row, column)


def _back(slice_axis: int) -> list[int]:
    """Where D, H and W lie among slice, row and column."""
    order = [slice_axis, *(axis for axis in range(3) if axis != slice_axis)]
    return [order.index(axis) for axis in range(3)]
