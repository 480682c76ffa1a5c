"""Whose query is next: clients take turns, however many queries each has sent."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Work = TypeVar("Work")


class Turns(Generic[Work]):
    """A queue per client.

    Args:
        per_client: unanswered queries that one client may have; a generator has one, one more while it gives one up.
        clients: that may have some at the same time.
    """

    def __init__(self, per_client: int = 64, clients: int = 1024) -> None:
        self._per_client, self._clients = per_client, clients
        self._queues: OrderedDict[bytes, deque[Work]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, client: bytes, work: Work) -> bool:
        """Append to a client's queue; False where it has too many, or there are too many clients."""
        queue = self._queues.get(client)
        if queue is None:
            if len(self._queues) >= self._clients:
                return False
            queue = self._queues[client] = deque()
        if len(queue) >= self._per_client:
            return False
        queue.append(work)
        return True

    def take(self) -> tuple[bytes, Work] | None:
        """The oldest query of the client whose turn it is, None where there is none; the client goes to the end."""
        if not self._queues:
            return None
        client, queue = self._queues.popitem(last=False)
        work = queue.popleft()
        if queue:
            self._queues[client] = queue
        return client, work
