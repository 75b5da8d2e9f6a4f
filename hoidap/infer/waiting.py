"""Requests that wait for room: bounded, first come first served within a client, clients by turns."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from hoidap.errors import QueueFullError
from hoidap.infer.engine import Request


@dataclass(frozen=True)
class Entry:
    """A request that waits."""

    id: int
    request: Request
    ends_at: float  # of time.monotonic(); math.inf: never


@dataclass
class Waiting:
    """The queue. A client that sends a hundred requests at once waits behind one that sends its first."""

    most: int
    _queues: OrderedDict[str, deque[Entry]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._queues.values()))

    def push(self, entry: Entry) -> None:
        """Take a request.

        Raises:
            QueueFullError: there are as many as may be.

        """
        if len(self) >= self.most:
            msg = f"{self.most} requests are waiting already, as many as may; ask again in a moment"
            raise QueueFullError(msg)
        self._queues.setdefault(entry.request.client, deque()).append(entry)

    def first(self) -> Entry:
        """Return whose turn it is."""
        return next(iter(self._queues.values()))[0]

    def pop(self) -> Entry:
        """Take out whose turn it is; the next is another client's, where one waits."""
        client, queue = self._queues.popitem(last=False)
        entry = queue.popleft()
        if queue:
            self._queues[client] = queue  # behind the others
        return entry

    def remove(self, request_id: int) -> bool:
        """Take out a request; returns whether it was there."""
        for client, queue in self._queues.items():
            kept = deque(entry for entry in queue if entry.id != request_id)
            if len(kept) < len(queue):
                self._queues[client] = kept
                if not kept:
                    del self._queues[client]
                return True
        return False

    def expired(self, now: float) -> list[int]:
        """Return the requests whose time is over."""
        return [entry.id for queue in self._queues.values() for entry in queue if entry.ends_at <= now]
