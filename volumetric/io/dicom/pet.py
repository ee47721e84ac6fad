"""PET: the standardised uptake value of one unit of activity, where a header allows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

from volumetric.io.dicom.files import read_header
from volumetric.io.dicom.parsing import parsing, quiet

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


_MINUTE_S, _DAY_S = 60, 86_400


@dataclass(frozen=True)
class _Terms:
    """What SUV is reckoned from: kg, Bq, s, and the seconds from injection to correction."""

    weight_kg: float
    dose_bq: float
    half_life_s: float
    decay_s: float


def suv_factor(paths: Sequence[Path]) -> tuple[float | None, str]:
    """SUV by body weight (g/ml) of 1 Bq/ml, and if there is none why.

    SUV = activity (Bq/ml) x weight (g) / dose (Bq), the dose decayed to the time that the
    images' decay correction refers to (QIBA FDG-PET/CT profile 1.13, appendix on SUV): the
    start of the series, or the injection itself. All files must say the same.
    """
    found: set[_Terms] = set()
    try:
        for path in paths:
            with parsing(path):
                header = read_header(path, _TAGS)[0]
            with quiet():  # what is malformed is no reason to lose the scan
                terms = _terms(header)
            if isinstance(terms, str):
                return None, terms
            found.add(terms)
    except (ValueError, TypeError, OverflowError):
        return None, "a date, a time or a number that it needs is malformed"
    if len(found) != 1:
        return None, "slices do not agree on weight, dose or times"
    (terms,) = found
    dose_bq = terms.dose_bq * 2 ** (-terms.decay_s / terms.half_life_s)
    return terms.weight_kg * 1000 / dose_bq, ""


def _terms(header: Dataset) -> _Terms | str:
    """What one file says, or what it lacks."""
    corrected = {str(word) for word in header.get("CorrectedImage") or ()}
    drugs = header.get("RadiopharmaceuticalInformationSequence")
    if not {"ATTN", "DECY"} <= corrected or not drugs:
        return "attenuation and decay correction, or the radiopharmaceutical, is not stated"
    if len(drugs) > 1:
        return "several radiopharmaceuticals were injected"
    weight = float(header.get("PatientWeight") or 0)
    dose = float(drugs[0].get("RadionuclideTotalDose") or 0)
    half_life = float(drugs[0].get("RadionuclideHalfLife") or 0)
    sound = _WEIGHT_KG[0] <= weight <= _WEIGHT_KG[1] and _DOSE_BQ[0] <= dose <= _DOSE_BQ[1]
    if not (sound and 0 < half_life < math.inf):
        return "weight (kg), dose (Bq) or half-life is not stated, or cannot be"
    decay_s = _decay_s(header, drugs[0])
    return decay_s if isinstance(decay_s, str) else _Terms(weight, dose, half_life, decay_s)


def _decay_s(header: Dataset, drug: Dataset) -> float | str:
    """Seconds between injection and the time that images are corrected to, or what it lacks."""
    correction = header.get("DecayCorrection")
    if correction == "ADMIN":
        return 0.0
    if correction != "START":
        return "its decay correction is neither START nor ADMIN"
    series = _when(header.get("SeriesDate"), header.get("SeriesTime"))
    acquired = _when(header.get("AcquisitionDate"), header.get("AcquisitionTime"))
    if series is None or acquired is None:
        return "the time of the scan is not stated to the minute"
    if series > acquired:
        return "its series was written later than it was acquired (post-processed)"
    injected = _injected(drug, series, header.get("TimezoneOffsetFromUTC"))
    if injected is None or not timedelta(0) <= series - injected <= _LONGEST:
        return (
            "the time of the injection is not stated to the minute and in the scan's own, is "
            "stated twice, or lies after it"
        )
    return (series - injected).total_seconds()


def _injected(drug: Dataset, series: datetime, zone: Any) -> datetime | None:
    """When, by date and time or by a time alone; None if neither is exact, or both disagree."""
    stamp = str(drug.get("RadiopharmaceuticalStartDateTime") or "")
    # A time without a date: of the same day, as the older attribute means it.
    day = stamp[:8] if _is_exact(stamp[:8], 8) else series.strftime("%Y%m%d")
    clock = _when(day, drug.get("RadiopharmaceuticalStartTime"))
    if not _is_exact(stamp, 12):
        return clock
    moment: datetime = DT(stamp)
    if moment.tzinfo is not None:
        if not zone:
            return None  # the scan's times are local, of a place that is not stated
        moment = moment.astimezone(datetime.strptime(str(zone), "%z").tzinfo)
    exact = datetime(*moment.timetuple()[:6], moment.microsecond)
    apart_s = 0.0 if clock is None else (exact - clock).total_seconds() % _DAY_S
    return exact if min(apart_s, _DAY_S - apart_s) < _MINUTE_S else None


def _when(date: Any, time: Any) -> datetime | None:
    """Both, where the time is stated to the minute: "09" is some time within an hour."""
    if not date or not _is_exact(str(time or ""), 4):
        return None
    day, clock = DA(str(date)), TM(str(time))
    return datetime.combine(day, clock) if day and clock else None


def _is_exact(text: str, n_digits: int) -> bool:
    """Whether a date or time begins with so many digits."""
    start = text.strip()[:n_digits]
    return len(start) == n_digits and start.isascii() and start.isdigit()
