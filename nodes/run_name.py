"""Names of runs and of collections of votes, checked before anything is queued."""
from __future__ import annotations

from ..trainers.run import check_name


def name_is_valid(name, field: str = "run_name") -> bool | str:
    """For VALIDATE_INPUTS of the input ``field``; None where the name comes by wire and is not known yet."""
    try:
        return name is None or bool(check_name(name, field))
    except ValueError as error:
        return str(error)
