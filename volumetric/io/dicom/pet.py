"""PET: the standardised uptake value of one unit of activity, where a header allows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.valuerep import DA, DT, TM

from volumetric.io.dicom.files import parsing, read_header

# The only reading of a person's weight; used for one quotient and forgotten.
_TAGS: list[str | int] = [
    "AcquisitionDate",
    "AcquisitionTime",
    "CorrectedImage",
    "DecayCorrection",
    "PatientWeight",
    "RadiopharmaceuticalInformationSequence",
    "SeriesDate",
    "SeriesTime",
    "TimezoneOffsetFromUTC",
]
_LONGEST = timedelta(days=1)
# From a mouse to a giant, from a tracer's trace to a therapy: beyond lies a wrong unit.
_WEIGHT_KG, _DOSE_BQ = (0.005, 500.0), (1e5, 1e11)


def suv_factor(paths: Sequence[Path]) -> tuple[float | None, str]:
    """SUV by body weight (g/ml) of 1 Bq/ml, and if there is none why.

    SUV = activity (Bq/ml) x weight (g) / dose (Bq), the dose decayed to the time that the
    images' decay correction refers to (QIBA FDG-PET/CT profile 1.13, appendix on SUV): the
    start of the series, or the injection itself.
    """
    headers = []
    for path in paths:
        with parsing(path), disable_value_validation():
            headers.append(read_header(path, _TAGS)[0])
    try:
        return _factor(headers)
    except (ValueError, TypeError, OverflowError):  # no reason to lose the scan
        return None, "a date, a time or a number that it needs is malformed"


def _factor(headers: Sequence[Dataset]) -> tuple[float | None, str]:
    first = headers[0]
    corrected = {str(word) for word in first.get("CorrectedImage") or ()}
    drugs = first.get("RadiopharmaceuticalInformationSequence")
    if not {"ATTN", "DECY"} <= corrected or not drugs:
        return None, "attenuation and decay correction, or the radiopharmaceutical, is not stated"
    weight = float(first.get("PatientWeight") or 0)
    dose = float(drugs[0].get("RadionuclideTotalDose") or 0)
    half_life = float(drugs[0].get("RadionuclideHalfLife") or 0)
    sound = _WEIGHT_KG[0] <= weight <= _WEIGHT_KG[1] and _DOSE_BQ[0] <= dose <= _DOSE_BQ[1]
    if not (sound and 0 < half_life < math.inf):
        return None, "weight (kg), dose (Bq) or half-life is not stated, or cannot be"
    decay_s, why = _decay_s(headers, drugs[0])
    if decay_s is None:
        return None, why
    return weight * 1000 / (dose * 2 ** (-decay_s / half_life)), ""


def _decay_s(headers: Sequence[Dataset], drug: Dataset) -> tuple[float | None, str]:
    """Seconds between injection and the time that images are corrected to."""
    correction = headers[0].get("DecayCorrection")
    if correction == "ADMIN":
        return 0.0, ""
    if correction != "START":
        return None, "its decay correction is neither START nor ADMIN"
    series = _when(headers[0].get("SeriesDate"), headers[0].get("SeriesTime"))
    acquired = [_when(one.get("AcquisitionDate"), one.get("AcquisitionTime")) for one in headers]
    known = [one for one in acquired if one is not None]
    if series is None or len(known) != len(headers):
        return None, "the time of the scan is not stated"
    if series > min(known):
        return None, "its series was written later than it was acquired (post-processed)"
    injected = _injected(drug, series, headers[0].get("TimezoneOffsetFromUTC"))
    if injected is None or not timedelta(0) <= series - injected <= _LONGEST:
        return None, "the time of the injection is not stated in the scan's own, or lies after it"
    return (series - injected).total_seconds(), ""


def _injected(drug: Dataset, series: datetime, zone: Any) -> datetime | None:
    stamp = drug.get("RadiopharmaceuticalStartDateTime")
    if not stamp:
        # A time without a date: of the same day, as the older attribute means it.
        return _when(series.strftime("%Y%m%d"), drug.get("RadiopharmaceuticalStartTime"))
    moment: datetime = DT(str(stamp))
    if moment.tzinfo is not None:
        if not zone:
            return None  # the scan's times are local, of a place that is not stated
        moment = moment.astimezone(datetime.strptime(str(zone), "%z").tzinfo)
    return datetime(*moment.timetuple()[:6], moment.microsecond)


def _when(date: Any, time: Any) -> datetime | None:
    day, clock = (DA(str(date)) if date else None), (TM(str(time)) if time else None)
    return datetime.combine(day, clock) if day and clock else None
