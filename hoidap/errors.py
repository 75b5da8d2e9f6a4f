"""What can go wrong, as one tree.

    HoidapError
    ├── DataError         a file of questions and answers; carries every problem with its file and line
    ├── RecipeError       a setting of a run
    ├── CheckpointError   a model folder, its configuration or its tensors
    ├── TokenizerError    a tokenizer.json
    ├── RunError          a run folder
    ├── TrainError        training itself (a loss that is not finite, no memory left)
    │   └── Interrupted   somebody stopped it (Ctrl-C); what was done is saved
    ├── RequestError      a question asked of the engine
    │   ├── QueueFullError  too many are waiting; ask again in a moment
    │   └── TooLongError    it leaves the model no room for an answer
    ├── EngineError       an answer that could not be made, though the request was good
    │   └── UnavailableError  not now: the engine is being loaded again, the server stops, the time was over
    └── StoreError        what a server keeps: the disk is full, the file locked or of a newer hoidap

Each message says what was wrong, what came, what is allowed and what to do.
The command line prints these without a traceback; anything else is a bug and keeps its traceback.
"""

from collections.abc import Sequence


class HoidapError(Exception):
    """The root: catch this to catch everything hoidap raises on purpose."""


class DataError(HoidapError):
    """A file of questions and answers cannot be used; ``problems`` holds one ``file:line: what`` a row."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{count} in the data; nothing was done:\n" + "\n".join(self.problems))


class RecipeError(HoidapError):
    """A setting is out of range or two settings disagree; the message names the flag."""


class CheckpointError(HoidapError):
    """A model folder is incomplete, unsupported or not what its configuration says."""


class TokenizerError(HoidapError):
    """A tokenizer.json is missing, unreadable or lacks a special token."""


class RunError(HoidapError):
    """A run folder is missing, unfinished, of another format or would be overwritten."""


class TrainError(HoidapError):
    """Training cannot go on."""


class Interrupted(TrainError):  # noqa: N818 - nothing went wrong
    """Training was stopped from outside; the message says how to go on."""


class RequestError(HoidapError):
    """A request to the engine cannot be served."""


class QueueFullError(RequestError):
    """As many requests wait as may."""


class TooLongError(RequestError):
    """A prompt takes all the room that there is for it and its answer."""


class EngineError(HoidapError):
    """The engine failed at an answer; the log has the cause."""


class UnavailableError(EngineError):
    """There is no answer now, through no fault of the request; ask again later."""


class StoreError(HoidapError):
    """What a server keeps cannot be read or written now; answers go on without it."""
