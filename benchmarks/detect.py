"""The one-stage detector against MONAI's 3D RetinaNet: same patches, same time, same metrics.

    .venv/bin/python benchmarks/detect.py RUN --minutes 28

RUN is a finished run of task `detect` (benchmarks/nodules.py makes the data). The peer learns from
the patches that the run drew, in as much time, and looks at the same held-out cases. It is set up
as MONAI's LUNA16 tutorial does it (ATSS matching, hard negatives, smooth L1, anchors near the
objects, SGD), with a ResNet of 18 layers in place of 50 so that it can learn anything in that time
on CPUs. Prints metrics with intervals, the paired difference, and what each costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.networks.nets import resnet

from pipeline.detection.found import read_objects
from pipeline.detection.predict import prediction_path
from pipeline.files import read_json
from pipeline.keys import read_plan
from pipeline.run import open_run
from volumetric.augment import Augmentation
from volumetric.boxes import Objects
from volumetric.inference.detect import find_in_windows
from volumetric.io.prepared import open_prepared
from volumetric.metrics.comparison import compare_statistics
from volumetric.metrics.detection import detection_statistic, score_detection
from volumetric.model import load_detector
from volumetric.objects import augment_objects, draw_objects, open_objects, stored_objects

_SHOWN = ("froc", "froc@0.125", "froc@1", "froc@8", "ap@0.1", "ap@0.3", "ap@0.5", "ar@0.1")
_STRIDE = (1, 2, 2)  # of the first convolution: thick slices keep their depth there


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--fold", type=int, default=0)
    chosen = parser.parse_args()
    run = open_run(chosen.run)
    plan, section = read_plan(run), run.config.train
    prepared = {
        case.id: open_prepared(run.prepared / f"{case.id}.safetensors")
        for case in run.labelled_cases()
    }
    learned = [prepared[case.id] for case in run.labelled_cases() if case.fold != chosen.fold]
    held = [case for case in run.labelled_cases() if case.fold == chosen.fold]
    classes = list(run.data_set.classes.values())
    patch = tuple(plan["patch_size"])
    torch.manual_seed(run.config.seed)
    peer = make_retinanet(len(classes), typical_sides(learned), patch)
    seconds, n_steps = teach(peer, learned, run, 60 * chosen.minutes)
    print(f"MONAI RetinaNet: {count(peer.network):.2f} M parameters, {n_steps} steps of "
          f"{plan['batch_size']} in {seconds / 60:.1f} min")  # fmt: skip

    model = load_detector(run.model, folds=[chosen.fold])
    print(f"volumetric: {count(model.networks[0]):.2f} M parameters, "
          f"{read_json(run.folder / 'provenance.json')['seconds'].get('train fold 0', 0) / 60:.1f} "
          f"min of training ({section.minutes} allowed)")  # fmt: skip
    theirs, truth, spent = [], [], [0.0, 0.0]
    for case in held:
        image = prepared[case.id].read_image()
        started = time.perf_counter()
        theirs.append(look(peer, image))
        middle = time.perf_counter()
        find_in_windows(model.networks, image, spec=model.spec, overlap=0.5, mirror_axes=())
        spent = [spent[0] + middle - started, spent[1] + time.perf_counter() - middle]
        truth.append(stored_objects(prepared[case.id].facts))
    print(f"looking at {len(held)} cases: MONAI / volumetric {spent[0] / spent[1]:.2f} of the time")
    facts = [read_json(run.facts(case)) for case in held]
    ours = [read_objects(prediction_path(run, case), classes=classes) for case in held]
    true = [stored_objects(one) for one in facts]
    subjects = [case.subject for case in held]
    tables = [
        score_detection(found, objects, classes=classes, subjects=subjects)
        for found, objects in ((ours, true), (theirs, truth))
    ]
    # Boxes of both in one order of cases: each against its own grid's truth, which is the same.
    differences = compare_statistics(
        detection_statistic(theirs, truth, classes=classes),
        detection_statistic(ours, true, classes=classes),
        len(held),
        subjects=subjects,
    )
    print(f"{'':<12}{'volumetric':<24}{'MONAI RetinaNet':<24}difference")
    for metric in _SHOWN:
        cells = [text(table[metric]["all"]) for table in tables]
        print(
            f"{metric:<12}{cells[0]:<24}{cells[1]:<24}{text(differences[metric]['all'].difference)}"
        )


def make_retinanet(
    n_classes: int, sides: Sequence[Sequence[float]], patch: Sequence[int]
) -> RetinaNetDetector:
    """MONAI's detector with anchors of these sides in voxels."""
    backbone = resnet.ResNet(
        block=resnet.ResNetBlock,
        layers=[2, 2, 2, 2],
        block_inplanes=resnet.get_inplanes(),
        n_input_channels=1,
        conv1_t_stride=_STRIDE,
        conv1_t_size=(7, 7, 7),
    )
    features = resnet_fpn_feature_extractor(backbone, 3, returned_layers=(1, 2))
    anchors = AnchorGeneratorWithAnchorShape(
        feature_map_scales=(1, 2, 4), base_anchor_shapes=[list(one) for one in sides]
    )
    network = RetinaNet(
        spatial_dims=3,
        num_classes=n_classes,
        num_anchors=len(sides),
        feature_extractor=features,
        size_divisible=[2 * 4 * stride for stride in _STRIDE],
    )
    torch.nn.init.constant_(network.classification_head.cls_logits.bias, -float(np.log(99)))
    detector = RetinaNetDetector(network, anchors)
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(
        batch_size_per_image=64, positive_fraction=0.5, pool_size=20, min_neg=16
    )
    detector.set_box_selector_parameters(
        score_thresh=0.02, topk_candidates_per_level=1000, nms_thresh=0.22, detections_per_img=100
    )
    detector.set_sliding_window_inferer(
        roi_size=patch, overlap=0.5, sw_batch_size=1, mode="gaussian"
    )
    return detector


def typical_sides(cases: Sequence[Any]) -> list[list[float]]:
    """Three boxes in voxels: a tenth, half and nine tenths of the objects are smaller."""
    boxes = np.concatenate([stored_objects(case.facts).boxes for case in cases])
    sides = boxes[:, 3:] - boxes[:, :3]
    found: list[list[float]] = np.percentile(sides, (10, 50, 90), axis=0).tolist()
    return found


def teach(
    detector: RetinaNetDetector, cases: Sequence[Any], run: Any, limit_s: float
) -> tuple[float, int]:
    """Learn from the run's patches for so long; seconds and steps."""
    plan, section = read_plan(run), run.config.train
    sources = open_objects(cases, device=torch.device("cpu"), budget_bytes=1 << 33)
    settings = Augmentation(**section.augment.model_dump(), elastic=0.0)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(
        detector.network.parameters(), 1e-2, momentum=0.9, weight_decay=3e-5, nesterov=True
    )
    started, n_steps = time.perf_counter(), 0
    detector.train()
    while (progress := (time.perf_counter() - started) / limit_s) < 1:
        images, targets = draw_objects(
            sources,
            rng,
            patch_size=tuple(plan["patch_size"]),
            batch_size=plan["batch_size"],
            foreground=section.foreground,
        )
        images, targets = augment_objects(
            images, targets, generator, settings=settings, spacing=tuple(plan["spacing_mm"])
        )
        warm = min(1.0, (n_steps + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * warm * 0.5 * (1 + np.cos(np.pi * progress))
        # MONAI's boxes begin at 0 where ours begin at -0.5.
        wanted = [{"boxes": one.boxes + 0.5, "labels": one.labels} for one in targets]
        losses = detector(images, wanted)
        loss = losses["classification"] + losses["box_regression"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.network.parameters(), 12.0)
        optimizer.step()
        n_steps += 1
        if n_steps % 50 == 0:
            print(f"step {n_steps}: {float(loss):.3f}", flush=True)
    detector.eval()
    return time.perf_counter() - started, n_steps


@torch.inference_mode()
def look(detector: RetinaNetDetector, image: torch.Tensor) -> Objects:
    """What it finds in a prepared image, in its voxels."""
    (found,) = detector(image[None], use_inferer=True)
    boxes = found["boxes"].double().numpy() - 0.5
    keep = (boxes[:, 3:] > boxes[:, :3]).all(axis=1)
    scores = found["labels_scores"].double().numpy()
    return Objects(boxes[keep], found["labels"].numpy()[keep], scores[keep])


def count(network: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def text(value: Any) -> str:
    if value.mean is None:
        return "-"
    if value.ci_low is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f} ({value.ci_low:.3f} to {value.ci_high:.3f})"


if __name__ == "__main__":
    main()
