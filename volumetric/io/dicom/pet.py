"""PET: the standardised uptake value of one unit of activity, where a header allows it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.valuerep import DA, DT, TM

from volumetric.io.dicom.files import parsing

# The only reading of a person's weight; used for one quotient and forgotten.
_TAGS = [
    "AcquisitionDate",
    "AcquisitionTime",
    "CorrectedImage",
    "DecayCorrection",
    "PatientWeight",
    "RadiopharmaceuticalInformationSequence",
    "SeriesDate",
    "SeriesTime",
]
_LONGEST = timedelta(days=1)


def suv_factor(paths: Sequence[Path]) -> tuple[float | None, str]:
    """SUV by body weight (g/ml) of 1 Bq/ml, and if there is none why.

    SUV = activity (Bq/ml) x weight (g) / dose (Bq), the dose decayed to the time that the
    images' decay correction refers to (QIBA FDG-PET/CT profile 1.13, appendix on SUV): the
    start of the series, or the injection itself.
    """
    headers = []
    for path in paths:
        with parsing(path), disable_value_validation():
            headers.append(dcmread(path, stop_before_pixels=True, specific_tags=_TAGS))
    first = headers[0]
    corrected = {str(word) for word in first.get("CorrectedImage") or ()}
    drugs = first.get("RadiopharmaceuticalInformationSequence")
    weight = first.get("PatientWeight")
    if not {"ATTN", "DECY"} <= corrected or not drugs or not weight:
        return None, "attenuation and decay correction, radiopharmaceutical or weight is not stated"
    dose, half_life = (
        drugs[0].get(keyword) for keyword in ("RadionuclideTotalDose", "RadionuclideHalfLife")
    )
    if not dose or not half_life or float(weight) <= 0 or float(dose) <= 0 or float(half_life) <= 0:
        return None, "dose, half-life or weight is not stated"
    decay_s, why = _decay_s(headers, drugs[0])
    if decay_s is None:
        return None, why
    left = float(dose) * 2 ** (-decay_s / float(half_life))
    return float(weight) * 1000 / left, ""


def _decay_s(headers: Sequence[Dataset], drug: Dataset) -> tuple[float | None, str]:
    """Seconds between injection and the time that images are corrected to."""
    correction = headers[0].get("DecayCorrection")
    if correction == "ADMIN":
        return 0.0, ""
    if correction != "START":
        return None, f"its decay correction is {correction!r}, not START or ADMIN"
    series = _when(headers[0].get("SeriesDate"), headers[0].get("SeriesTime"))
    acquired = [_when(one.get("AcquisitionDate"), one.get("AcquisitionTime")) for one in headers]
    known = [one for one in acquired if one is not None]
    if series is None or len(known) != len(headers):
        return None, "the time of the scan is not stated"
    if series > min(known):
        return None, "its series was written later than it was acquired (post-processed)"
    injected = _injected(drug, series)
    if injected is None or not timedelta(0) <= series - injected <= _LONGEST:
        return None, "the time of the injection is not stated, or lies after the scan"
    return (series - injected).total_seconds(), ""


def _injected(drug: Dataset, series: datetime) -> datetime | None:
    stamp = drug.get("RadiopharmaceuticalStartDateTime")
    if stamp:
        moment: datetime = DT(str(stamp)).replace(tzinfo=None)
        return moment
    time = drug.get("RadiopharmaceuticalStartTime")
    # A time without a date: of the same day, as the older attribute means it.
    return _when(series.strftime("%Y%m%d"), time)


def _when(date: Any, time: Any) -> datetime | None:
    day, clock = (DA(str(date)) if date else None), (TM(str(time)) if time else None)
    return datetime.combine(day, clock) if day and clock else None
