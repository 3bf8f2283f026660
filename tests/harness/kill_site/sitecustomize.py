"""Imported by Python at its start where this folder is on its path: arms the job's fail points."""

import os

from harness.kills import VARIABLE, arm_fail_points

if os.environ.get(VARIABLE):
    arm_fail_points(os.environ[VARIABLE])
