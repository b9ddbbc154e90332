"""The generators of docs/reliability.md in full: python develop.py test --generators. Every run of the suite has them shortened."""

from __future__ import annotations

COUNTS = {"POSTTRAIN_REQUESTS": "5000", "POSTTRAIN_FILES": "500", "POSTTRAIN_KILLS": "200"}
FILES = (
    "tests/unit/nodes/test_wrong_values.py",
    "tests/unit/nodes/page/test_routes.py",
    "tests/unit/nodes/test_access.py",
    "tests/unit/trainers/data/test_hostile_files.py",
    "tests/unit/trainers/run/test_kills.py",
    "tests/unit/trainers/run/test_disk.py",
    "tests/unit/trainers/run/test_lost_folder.py",
    "tests/unit/test_short_reprs.py",
)
