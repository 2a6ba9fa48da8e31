"""A calibration's file: the step times of a real engine and what it can hold.

`python -m benchmarks.planner.validate` writes one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.planner.sequence import Limits
from benchmarks.planner.simulate import EngineModel
from benchmarks.planner.step_times import StepTimes


class CalibrationError(ValueError):
    """The file can't be used; the message says why."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    step_times: StepTimes
    limits: Limits
    outside_s: float = 0.0
    """Of each request, outside of the engine's steps."""
    engine: str = ""
    """What was measured, in words."""

    @property
    def model(self) -> EngineModel:
        return EngineModel(self.step_times, self.limits, self.outside_s)


def read_calibration(path: Path) -> Calibration:
    """Raises `CalibrationError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise CalibrationError(f"{path} can't be read ({error.strerror})") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise CalibrationError(f"{path} is not a calibration: {error}") from error


def write_calibration(path: Path, calibration: Calibration) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=2))
