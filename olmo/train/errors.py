"""What ends a run with an explanation instead of a traceback."""

from olmo.command_line import RunError


class TrainingError(RunError):
    """The run cannot go on; the message says why."""


class SaveError(RunError):
    """A checkpoint could not be written; the message names folder, cause and what is left."""
