"""Loads small_models.py beside the tests, which importlib mode does not put on the path."""
import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("small_models", Path(__file__).with_name("small_models.py"))
module = importlib.util.module_from_spec(spec)
sys.modules.setdefault("small_models", module)
spec.loader.exec_module(sys.modules["small_models"])
