"""A run is a folder: settings, metrics, sample grids, checkpoints. It survives a cancel, a crash, a full disk."""
from .folder import CONTINUE, CONTINUE_CHANGED, START_OVER, WHEN_EXISTS, Run, SettingsChanged, check_name, run_state
from .lock import RunInUse
from .run_plan import RunPlan
from .say import say_once
from .session import STOPPED_BY, Session, TrainingStopped
from .stopping import StopRule

__all__ = ["CONTINUE", "CONTINUE_CHANGED", "START_OVER", "STOPPED_BY", "WHEN_EXISTS", "Run", "RunInUse", "RunPlan", "Session",
           "SettingsChanged", "StopRule", "TrainingStopped", "check_name", "run_state", "say_once"]
