"""What ends a run with an explanation instead of a traceback."""


class TrainingError(RuntimeError):
    """The run cannot go on; the message says why."""


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message names folder, cause and what is left."""
