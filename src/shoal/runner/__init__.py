"""Decides: what starts when, what follows a failure, what a request from outside changes."""

from shoal.runner.board import Summary
from shoal.runner.control import Request, as_file, ask
from shoal.runner.progress import Phase, Progress, StepProgress
from shoal.runner.runner import Runner

__all__ = ["Phase", "Progress", "Request", "Runner", "StepProgress", "Summary", "as_file", "ask"]
