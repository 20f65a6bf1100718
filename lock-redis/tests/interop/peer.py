"""Takes and gives back locks with a library of others: a line of standard input says what, a line of standard output how
it went.

    peer.py redis-py|python-redis-lock|pottery PORT

    acquire NAME TTL WAIT   held, or busy after WAIT. In milliseconds; a ttl of 0 is none
    extend NAME TTL         extended, or lost
    release NAME            released, or lost
"""

import asyncio
import logging
import sys


class RedisPy:
    """redis-py's asyncio lock."""

    def __init__(self, port):
        import redis.asyncio

        self.client = redis.asyncio.Redis(port=port)

    async def acquire(self, name, ttl, wait):
        lock = self.client.lock(name, timeout=ttl / 1000 or None, sleep=0.02)
        return lock if await lock.acquire(blocking=wait > 0, blocking_timeout=wait / 1000) else None

    async def extend(self, lock, ttl):
        from redis.exceptions import LockError

        try:
            await lock.extend(ttl / 1000, replace_ttl=True)
            return True
        except LockError:
            return False

    async def release(self, lock):
        from redis.exceptions import LockError

        try:
            await lock.release()
            return True
        except LockError:
            return False


class PythonRedisLock:
    """Counts in whole seconds."""

    def __init__(self, port):
        import redis

        self.client = redis.Redis(port=port)

    async def acquire(self, name, ttl, wait):
        import redis_lock

        lock = redis_lock.Lock(self.client, name, expire=ttl // 1000 or None)

        def acquire():
            if wait:
                return lock.acquire(timeout=max(wait // 1000, 1))
            return lock.acquire(blocking=False)

        return lock if await asyncio.to_thread(acquire) else None

    async def extend(self, lock, ttl):
        import redis_lock

        try:
            await asyncio.to_thread(lock.extend, ttl // 1000)
            return True
        except redis_lock.NotAcquired:
            return False

    async def release(self, lock):
        import redis_lock

        try:
            await asyncio.to_thread(lock.release)
            return True
        except redis_lock.NotAcquired:
            return False


class Pottery:
    """Extends by as much as the lock had at first."""

    def __init__(self, port):
        import redis

        self.client = redis.Redis(port=port)

    async def acquire(self, name, ttl, wait):
        import pottery

        lock = pottery.Redlock(key=name, masters={self.client}, auto_release_time=ttl / 1000)

        def acquire():
            if wait:
                return lock.acquire(timeout=wait / 1000)
            return lock.acquire(blocking=False)

        return lock if await asyncio.to_thread(acquire) else None

    async def extend(self, lock, ttl):
        import pottery

        try:
            await asyncio.to_thread(lock.extend)
            return True
        except pottery.ExtendUnlockedLock:
            return False

    async def release(self, lock):
        import pottery

        try:
            await asyncio.to_thread(lock.release)
            return True
        except pottery.ReleaseUnlockedLock:
            return False


LIBRARIES = {"redis-py": RedisPy, "python-redis-lock": PythonRedisLock, "pottery": Pottery}


async def main():
    # That a lock was not taken is an answer here.
    logging.disable(logging.WARNING)
    library = LIBRARIES[sys.argv[1]](int(sys.argv[2]))
    locks = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, name, *numbers = line.split()
        numbers = [int(number) for number in numbers]
        if what == "acquire":
            lock = await library.acquire(name, *numbers)
            if lock:
                locks[name] = lock
            answer = "held" if lock else "busy"
        elif what == "extend":
            answer = "extended" if await library.extend(locks[name], *numbers) else "lost"
        elif what == "release":
            answer = "released" if await library.release(locks.pop(name)) else "lost"
        print(answer, flush=True)


asyncio.run(main())
