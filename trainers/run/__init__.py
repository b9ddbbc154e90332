"""A run is a folder: settings, metrics, sample grids, checkpoints. It survives a cancel, a crash, a full disk."""
from .folder import CONTINUE, CONTINUE_CHANGED, START_OVER, WHEN_EXISTS, Run, SettingsChanged, check_name, run_state
from .lock import RunInUse
from .session import RunPlan, Session, TrainingStopped

__all__ = ["CONTINUE", "CONTINUE_CHANGED", "START_OVER", "WHEN_EXISTS", "Run", "RunInUse", "RunPlan", "Session",
           "SettingsChanged", "TrainingStopped", "check_name", "run_state"]
